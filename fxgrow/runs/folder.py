"""The folder of a run: the recipe that repeats it, its metrics, and the model at its end."""

import os
from pathlib import Path

import torch

from fxgrow.errors import FileError
from fxgrow.files import save
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.results import METRICS, MODEL, RECIPE
from fxgrow.runs.growing import Event, WakingBlocks
from fxgrow.runs.metrics import EpochMetrics, write_metrics
from fxgrow.runs.reading import as_toml
from fxgrow.runs.run import Run

WEIGHTS = "weights.pt"


def check_folder(path: Path, *, force: bool) -> None:
    """Check, before any work, that a run can write into a folder.

    Raises:
        FileError: If it is a file, cannot be written to, or holds something and `force` is not given.
    """
    if path.exists() and not path.is_dir():
        raise FileError("it is a file, not a folder", where=str(path), fix="choose another --out")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise FileError(f"{nearest} cannot be written to", where=str(path), fix="choose another --out")
    if path.is_dir() and any(path.iterdir()) and not force:
        fix = "choose another --out, or overwrite with --force"
        raise FileError("the folder is not empty", where=str(path), fix=fix)


class Folder:
    """Writes what a run leaves behind, as it goes: a `Watcher`.

    Raises:
        FileError: If it cannot be written.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self._run = path, run
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"it cannot be made ({error.strerror})", where=str(path), fix="name another") from error
        with whole_or_nothing(path / RECIPE) as stream:
            stream.write(as_toml(run.settings).encode())

    def step(self, epoch: int, loss: float) -> None:
        """Do nothing."""

    def grown(self, event: Event) -> None:
        """Do nothing: the metrics of the epoch tell it."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Write the metrics of all epochs so far."""
        write_metrics(self.path / METRICS, self._run.metrics)

    def finish(self) -> Path:
        """Write the model at the end and return where.

        A model that grew is a file of fxgrow. One that woke is what it was, and its weights are its own state dict,
        which its class loads without fxgrow.
        """
        self._run.measure_scores()
        growing = self._run.growing
        if isinstance(growing, WakingBlocks):
            with whole_or_nothing(self.path / WEIGHTS) as stream:
                weights = growing.progressive.model.state_dict()
                torch.save({name: value.cpu() for name, value in weights.items()}, stream)
            return self.path / WEIGHTS
        save(growing.graph_module, self.path / MODEL, overwrite=True)
        return self.path / MODEL
