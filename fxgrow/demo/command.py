"""``fxgrow demo`` on the command line. Importing this module is quick: torch comes with `run`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fxgrow.runs import Settings
    from fxgrow.runs.metrics import EpochMetrics

RECIPE = "half_steps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``fxgrow demo``."""
    parser.add_argument("--epochs", type=int, default=13, help="length of both trainings (default: 13)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("--force", action="store_true", help="overwrite the files in an output folder that exists")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, enough for its size)")


def settings_of(args: argparse.Namespace) -> "Settings":
    """Return the demo's recipe with what the options say.

    Raises:
        FxgrowError: If an option does not fit.
    """
    from fxgrow.runs import read_recipe

    return read_recipe(RECIPE, {"epochs": args.epochs, "seed": args.seed})


def run(args: argparse.Namespace, console: "Console") -> "dict[str, Sequence[EpochMetrics]]":
    """Run the demo and return the metrics by model.

    Raises:
        FxgrowError: If something is refused; nothing is written then.
    """
    from fxgrow.demo.experiment import run_demo
    from fxgrow.runs.command import own_warnings, set_threads
    from fxgrow.runs.folder import check_folder

    settings = settings_of(args)
    check_folder(args.out, force=args.force)
    set_threads(args.threads)
    with own_warnings():
        return run_demo(settings, args.out, console)
