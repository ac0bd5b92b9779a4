"""The folder of a run: the recipe that repeats it, its checkpoints and metrics, and the model at its end."""

import os
from pathlib import Path

import torch

from fxgrow.errors import FileError
from fxgrow.files import Checkpointer, save
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.results import METRICS, MODEL, RECIPE
from fxgrow.runs.growing import RunEvent, WakingBlocks
from fxgrow.runs.metrics import EpochMetrics, write_metrics
from fxgrow.runs.reading import as_toml
from fxgrow.runs.run import Run

WEIGHTS, CHECKPOINTS = "weights.pt", "checkpoints"


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
    """Writes what a run leaves behind, as it goes: a `Watcher`. Of several ranks, which all call it, the first writes.

    Args:
        path: The folder; it is made if it is missing.
        run: The run.

    Raises:
        FileError: If it cannot be written.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self._run = path, run
        self._writes = run.ranks.index == 0
        self._checkpoints = Checkpointer(path / CHECKPOINTS, keep=2)

    def begin(self) -> None:
        """Write the recipe, and forget the checkpoints of an earlier run."""
        if not self._writes:
            return
        for path in (self.path / CHECKPOINTS).glob("*.ckpt"):
            path.unlink()
        with whole_or_nothing(self.path / RECIPE) as stream:
            stream.write(as_toml(self._run.settings).encode())

    def resume(self) -> None:
        """Let the run go on from the newest checkpoint that is whole.

        Raises:
            FileError: If there is none.
        """
        found = self._checkpoints.load()
        if found is None:
            raise FileError("it has no checkpoint", where=str(self.path), fix="train it from the start, with --force")
        self._run.load_state_dict(found.state)

    def step(self, epoch: int, loss: float) -> None:
        """Do nothing."""

    def grown(self, event: RunEvent) -> None:
        """Do nothing: the metrics of the epoch tell it."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Write a checkpoint, and the metrics of all epochs so far."""
        self.keep()
        if self._writes:
            write_metrics(self.path / METRICS, self._run.metrics)

    def keep(self) -> None:
        """Write a checkpoint."""
        state = self._run.state_dict()
        if self._writes:
            self._checkpoints.save(state, step=self._run.step, metric=self._run.metrics[-1].test_accuracy)

    def finish(self) -> Path:
        """Write the model at the end and return where.

        The weights of a model that woke are written besides: they are its own state dict, which its class loads
        without fxgrow.
        """
        growing = self._run.growing
        if not isinstance(growing, WakingBlocks):
            growing.measure_scores()
        if self._writes and isinstance(growing, WakingBlocks):
            with whole_or_nothing(self.path / WEIGHTS) as stream:
                torch.save(growing.weights(), stream)
        if self._writes:
            save(growing.saved, self.path / MODEL, overwrite=True)
        return self.path / MODEL
