"""What the parsers of all verbs share: errors in one line, examples in the help, and common arguments."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["Parser"]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to look, and leave with status 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def option_names(self) -> list[str]:
        """Return the options, as they are written."""
        return list(self._option_string_actions)


def add_verb(
    verbs: "Verbs",
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    summary: str,
    description: str = "",
    example: str,
) -> Parser:
    """Add a verb and return its parser.

    Args:
        verbs: What `argparse` adds verbs to.
        name: The verb.
        run: Called with the parsed arguments; returns the exit status, None for success.
        summary: One line for the list of verbs.
        description: What more the verb's own help says.
        example: Command lines for the help.
    """
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f" {description}" if description else ""),
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    parser.set_defaults(run=run, parser=parser)
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the description, which is prose, and leaves the example as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def add_output(parser: Parser, *, required: bool) -> None:
    """Add the arguments for the file that a verb writes."""
    parser.add_argument("-o", "--output", metavar="FILE", required=required, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def add_loading(parser: Parser) -> None:
    """Add the arguments that say how a model file may be read."""
    parser.add_argument(
        "--base",
        metavar="MODULE:CALLABLE",
        help="for a file that does not know its origin: what builds the model that was traced, as in "
        "my_project.models:make_mlp; it is imported and called",
    )
    add_unsafe_pickle(parser)


def add_unsafe_pickle(parser: Parser) -> None:
    """Add the flag that allows pickles."""
    parser.add_argument(
        "--unsafe-pickle",
        action="store_true",
        help="also read a pickled nn.Module or GraphModule; DANGER: such a file can run any code on this machine when "
        "it is read, so use this only on files whose maker you trust",
    )
