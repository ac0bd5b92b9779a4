"""``fxgrow demo`` on the command line. Importing this module is quick: torch comes with `run`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fxgrow.runs import Settings
    from fxgrow.runs.metrics import EpochMetrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``fxgrow demo``."""
    parser.add_argument("--epochs", type=int, default=40, help="length of the training (default: 40)")
    parser.add_argument("--events", type=int, default=3, help="growth events (default: 3)")
    parser.add_argument(
        "--budget",
        type=budget,
        default=0.5,
        help="what all events together may add: a fraction of the parameters, as in 0.5 (the default), or a number",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights, batches and growth (default: 0)")
    parser.add_argument(
        "--compare", action="store_true", help="train the ungrown base and a uniform model of the final size too"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("--force", action="store_true", help="overwrite the files in an output folder that exists")
    parser.add_argument("--no-compile", action="store_true", help="train eager, without torch.compile")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")


def budget(text: str) -> float:
    """Read a budget: digits alone are a number of parameters (int), anything else is a fraction (float)."""
    return int(text) if text.isdigit() else float(text)


def settings_of(args: argparse.Namespace) -> "Settings":
    """Return the recipe ``demo`` with what the options say.

    Raises:
        FxgrowError: If an option does not fit.
    """
    from fxgrow.runs import read_recipe

    changes = {
        "epochs": args.epochs,
        "seed": args.seed,
        "compile": not args.no_compile,
        "growth.events": args.events,
        "growth.budget": args.budget,
    }
    return read_recipe("demo", changes)


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
        return run_demo(settings, args.out, console, compare=args.compare)
