"""``fxgrow train``, behind the command line: train, show, write."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from fxgrow.errors import SettingsError
from fxgrow.results import RECIPE
from fxgrow.runs.folder import Folder, check_folder
from fxgrow.runs.forecast import forecast, forecast_notes, forecast_table
from fxgrow.runs.interruption import ends_behind_the_step
from fxgrow.runs.processes import joined_ranks
from fxgrow.runs.progress import TrainingProgress
from fxgrow.runs.reading import read_recipe
from fxgrow.runs.report import introduction, results_table
from fxgrow.runs.run import Run, Watcher
from fxgrow.runs.settings import Settings
from fxgrow.runs.tensorboard import TensorBoard
from fxgrow.training import CompileWarning

INTERRUPTED = 130


def train(settings: Settings, out: Path, *, force: bool = False) -> int:
    """Train what settings describe, write it into a folder, and return the exit status.

    Raises:
        FxgrowError: If something is refused.
    """
    check_folder(out, force=force)
    with _prepared(settings) as (run, console):
        folder = Folder(out, run)
        folder.begin()
        console.print(introduction(run))
        return _go(run, folder, console)


def plan(settings: Settings) -> int:
    """Say what a run will do, measure a step of it, and write nothing.

    Raises:
        FxgrowError: If something is refused.
    """
    with _prepared(settings) as (run, console):
        console.print(introduction(run))
        found = forecast(run)
        console.print(forecast_table(found))
        for note in forecast_notes(found):
            console.print(f"- {note}")
    return 0


def resume(out: Path) -> int:
    """Let the run in a folder go on from its newest checkpoint, and return the exit status.

    Raises:
        FxgrowError: If there is no run, or no checkpoint.
    """
    with _prepared(read_recipe(str(out / RECIPE))) as (run, console):
        folder = Folder(out, run)
        folder.resume()
        console.print(introduction(run))
        console.print(f"it goes on behind step {run.step:,} of {run.steps:,}")
        return _go(run, folder, console)


@contextmanager
def _prepared(settings: Settings) -> Iterator[tuple[Run, Console]]:
    """Make a run, together with the other processes of torchrun, of which the first one speaks."""
    with joined_ranks() as ranks:
        console = Console(highlight=False, quiet=ranks.index > 0)
        with compile_warnings_on(console):
            yield Run(settings), console


def _go(run: Run, folder: Folder, console: Console) -> int:
    """Train to the end, or until a signal, and say what came of it."""
    with TrainingProgress(console, run) as progress, ends_behind_the_step() as stop, ExitStack() as stack:
        watchers: list[Watcher] = [progress, folder]
        if run.settings.tensorboard and run.ranks.index == 0:
            watchers.append(stack.enter_context(TensorBoard(folder.path)))
        run.train(*watchers, stop=stop)
    if not run.done:
        folder.keep()
        console.print(f"stopped behind step {run.step:,} of {run.steps:,}; go on with:")
        console.print(f"  fxgrow train --resume {folder.path}", soft_wrap=True)
        return INTERRUPTED
    written = folder.finish()
    console.print(results_table({run.name: run.metrics}, f"Test results on {run.batches.sizes[1]:,} images"))
    console.print(f"{run.metrics[-1].seconds:.0f} s in all. Written: {folder.path}/ (recipe, metrics, {written.name})")
    console.print(f"Look at what grew:  fxgrow inspect {written}", soft_wrap=True)
    console.print(f"In the browser:     fxgrow report {folder.path} -o report.html", soft_wrap=True)
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
