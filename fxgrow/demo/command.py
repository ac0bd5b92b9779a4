"""``fxgrow demo`` on the command line. Importing this module is quick: torch comes with `run`."""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any


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


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit status.

    Raises:
        FxgrowError: If something is refused; nothing is written then.
    """
    from rich.console import Console

    from fxgrow.demo.experiment import run_demo
    from fxgrow.demo.settings import Settings
    from fxgrow.training import CompileWarning

    settings = Settings(
        epochs=args.epochs,
        seed=args.seed,
        events=args.events,
        budget=args.budget,
        out=args.out,
        compare=args.compare,
        compile=not args.no_compile,
        threads=args.threads,
        force=args.force,
    )
    console = Console(highlight=False)
    # A CUDA build of torch says there once that this machine has no GPU, which is no news to a demo on the CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, CompileWarning):
            console.print(str(message), style="yellow", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", CompileWarning)
        warnings.showwarning = show
        run_demo(settings, console)
    return 0
