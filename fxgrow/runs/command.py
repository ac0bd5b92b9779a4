"""``fxgrow train``, behind the command line: train, show, write."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from fxgrow.errors import SettingsError
from fxgrow.results import MODEL
from fxgrow.runs.folder import Folder, check_folder
from fxgrow.runs.progress import TrainingProgress
from fxgrow.runs.report import introduction, results_table
from fxgrow.runs.run import Run
from fxgrow.runs.settings import Settings
from fxgrow.training import CompileWarning


def train(settings: Settings, out: Path, *, force: bool = False, threads: int | None = None) -> int:
    """Train what settings describe, write it into a folder, and return the exit status.

    Raises:
        FxgrowError: If something is refused.
    """
    check_folder(out, force=force)
    set_threads(threads)
    console = Console(highlight=False)
    with compile_warnings_on(console):
        run = Run(settings)
        folder = Folder(out, run)
        console.print(introduction(run))
        with TrainingProgress(console, run) as progress:
            run.train(progress, folder)
    written = folder.finish()
    console.print(results_table({run.name: run.metrics}, f"Test results on {run.batches.sizes[1]:,} images"))
    console.print(f"{run.metrics[-1].seconds:.0f} s in all. Written: {out}/ (recipe, metrics, {written.name})")
    if written.name == MODEL:
        console.print(f"Look at what grew:  fxgrow inspect {written}", soft_wrap=True)
        console.print(f"In the browser:     fxgrow report {out} -o report.html", soft_wrap=True)
    return 0


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads, if one is given.

    Raises:
        SettingsError: If it is below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise SettingsError(f"{threads} is too few", where="--threads", fix="give 1 or more")
    torch.set_num_threads(threads)


@contextmanager
def compile_warnings_on(console: Console) -> Iterator[None]:
    """Write a warning that the model runs eager where the rest is written; hide others."""
    # A CUDA build of torch says there once that this machine has no GPU, which is no news to a run on the CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, CompileWarning):
            console.print(str(message), style="yellow", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", CompileWarning)
        warnings.showwarning = show
        yield
