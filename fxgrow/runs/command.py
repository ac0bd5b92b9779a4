"""``fxgrow train``, behind the command line: train, show, write."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from fxgrow.curvature import FewSamplesWarning
from fxgrow.errors import FxgrowWarning, SettingsError
from fxgrow.results import RECIPE
from fxgrow.runs.folder import Folder, check_folder
from fxgrow.runs.forecast import Forecast, forecast, forecast_notes, forecast_table
from fxgrow.runs.interruption import ends_behind_the_step
from fxgrow.runs.metrics import EpochMetrics
from fxgrow.runs.processes import joined_ranks
from fxgrow.runs.progress import TrainingProgress
from fxgrow.runs.reading import read_recipe
from fxgrow.runs.report import introduction, preparation, results_table
from fxgrow.runs.run import Run, Watcher
from fxgrow.runs.settings import Settings
from fxgrow.runs.tensorboard import TensorBoard

INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    folder: str
    step: int  #: optimizer steps made
    steps: int  #: of the whole run
    metrics: tuple[EpochMetrics, ...]

    @property
    def status(self) -> int:
        """The exit status."""
        return 0 if self.step == self.steps else INTERRUPTED


def train(settings: Settings, out: Path, console: Console, *, force: bool = False) -> Outcome:
    """Train what settings describe, and write it into a folder.

    Raises:
        FxgrowError: If something is refused.
    """
    check_folder(out, force=force)
    with _prepared(settings, console) as run:
        folder = Folder(out, run)
        folder.begin()
        console.print(introduction(run))
        return _go(run, folder, console)


def plan(settings: Settings, console: Console) -> Forecast:
    """Say what a run will do, measure a step of it, and write nothing.

    Raises:
        FxgrowError: If something is refused.
    """
    with _prepared(settings, console) as run:
        warnings.simplefilter("ignore", FewSamplesWarning)  # scores are made up for a plan
        console.print(introduction(run))
        found = forecast(run)
        console.print(forecast_table(found))
        for note in forecast_notes(found):
            console.print(f"- {note}")
    return found


def resume(out: Path, console: Console) -> Outcome:
    """Let the run in a folder go on from its newest checkpoint.

    Raises:
        FxgrowError: If there is no run, or no checkpoint.
    """
    with _prepared(read_recipe(str(out / RECIPE)), console) as run:
        folder = Folder(out, run)
        folder.resume()
        console.print(introduction(run))
        console.print(f"it goes on behind step {run.step:,} of {run.steps:,}")
        return _go(run, folder, console)


@contextmanager
def _prepared(settings: Settings, console: Console) -> Iterator[Run]:
    """Make a run, together with the other processes of torchrun, of which the first one speaks."""
    with joined_ranks() as ranks:
        console.quiet = console.quiet or ranks.index > 0
        console.print(preparation(settings))
        with own_warnings():
            yield Run(settings)


def _go(run: Run, folder: Folder, console: Console) -> Outcome:
    """Train to the end, or until a signal, and say what came of it."""
    with TrainingProgress(console, run) as progress, ends_behind_the_step() as stop, ExitStack() as stack:
        watchers: list[Watcher] = [progress, folder]
        if run.settings.tensorboard and run.ranks.index == 0:
            watchers.append(stack.enter_context(TensorBoard(folder.path)))
        run.train(*watchers, stop=stop)
    outcome = Outcome(str(folder.path), run.step, run.steps, tuple(run.metrics))
    if not run.done:
        folder.keep()
        console.print(f"stopped behind step {run.step:,} of {run.steps:,}; go on with:")
        torchrun = f"torchrun --nproc-per-node {run.ranks.count} -m " if run.ranks.count > 1 else ""
        console.print(f"  {torchrun}fxgrow train --resume {folder.path}", soft_wrap=True)
        return outcome
    written = folder.finish()
    console.print(results_table({run.name: run.metrics}, f"Test results on {run.batches.sizes[1]:,} images"))
    console.print(f"{run.metrics[-1].seconds:.0f} s in all. Written: {folder.path}/ (recipe, metrics, {written.name})")
    console.print(f"Look at what grew:  fxgrow inspect {written}", soft_wrap=True)
    console.print(f"In the browser:     fxgrow report {folder.path} -o report.html", soft_wrap=True)
    return outcome


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
def own_warnings() -> Iterator[None]:
    """Let fxgrow's own warnings through, each once, and no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", FxgrowWarning)
        yield
