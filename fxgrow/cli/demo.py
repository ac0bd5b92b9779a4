"""`fxgrow demo`: the main job on data that installs with it."""

import argparse
from typing import TYPE_CHECKING

from fxgrow.cli.parser import add_verb

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    from fxgrow.demo import add_arguments

    parser = add_verb(
        verbs,
        "demo",
        run,
        summary="train a network that grows by half-steps, beside the same one from scratch",
        example="fxgrow demo\nfxgrow demo --epochs 4 --out runs/short",
    )
    add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    from fxgrow.cli.output import output_console, tell
    from fxgrow.demo import run as run_demo

    metrics = run_demo(args, output_console(args))
    tell(None, {"folder": str(args.out), "metrics": metrics}, args)
