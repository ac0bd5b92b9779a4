"""What verbs print: text for people, JSON for machines, nothing for those who want quiet."""

import argparse
from typing import Any

import msgspec
from rich.console import Console


def output_console(args: argparse.Namespace) -> Console:
    """Return the console that a verb prints to; without a terminal it is 80 columns wide and plain.

    rich heeds NO_COLOR. With ``--json`` the console prints nothing.
    """
    return Console(highlight=False, soft_wrap=False, quiet=args.json)


def show(view: Any, args: argparse.Namespace) -> None:
    """Print a view of a model, in the form that the arguments of `fxgrow.cli.parser.add_verb` ask for."""
    from fxgrow.inspection import to_json, to_text

    if args.json:
        print(to_json(view))
    else:
        output_console(args).print(to_text(view))


def tell(text: str | None, data: Any, args: argparse.Namespace) -> None:
    """Print a result that is no view: a text for people, or dataclasses, lists and dictionaries as JSON.

    Args:
        text: None where people have read it already.
        data: A number in it that is not finite is ``null`` in JSON.
        args: The arguments of the verb.
    """
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(data), indent=1).decode())
    elif text is not None:
        output_console(args).print(text, markup=False, soft_wrap=True)
