"""Checkpoints of a run: written whole or not at all, the last ones and the best kept, a damaged one passed over."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fxgrow.errors import CheckpointWarning, FileError
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.files.checksums import checksum_of_state
from fxgrow.files.reading import load_plain

_SUFFIX = ".ckpt"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was written at one step."""

    path: Path
    step: int
    metric: float | None
    state: Mapping[str, Any]


class Checkpointer:
    """Writes the state of a run into a folder and finds the newest whole one again.

    A state is whatever ``torch.load(weights_only=True)`` takes: nested dicts and lists of tensors, numbers and strings,
    such as ``{"grower": grower.state_dict(), "scheduler": scheduler.state_dict()}``.

    Args:
        folder: Where the checkpoints lie; it is made if it is missing.
        keep: How many of the newest are kept.
        mode: Whether the best is the one of the highest (``"max"``) or the lowest (``"min"``) metric. It is kept too.

    Raises:
        FileError: If `keep` or `mode` does not fit, or the folder cannot be made.

    Example:
        >>> import tempfile
        >>> checkpointer = Checkpointer(tempfile.mkdtemp(), keep=2)
        >>> for step in range(4):
        ...     _ = checkpointer.save({"weight": torch.full((2,), float(step))}, step=step)
        >>> [path.name for path in checkpointer.paths()], checkpointer.load().state["weight"]
        (['step_2.ckpt', 'step_3.ckpt'], tensor([3., 3.]))
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3, mode: str = "max") -> None:
        self.folder, self.keep, self.mode = Path(folder), keep, mode
        if keep < 1 or mode not in ("max", "min"):
            fix = "keep 1 or more, by mode='max' or 'min' of their metric"
            raise FileError(f"keep={keep} and mode={mode!r} do not fit", where=str(folder), fix=fix)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"it cannot be made ({error.strerror})", where=str(folder), fix="name another") from error

    def save(self, state: Mapping[str, Any], *, step: int, metric: float | None = None) -> Path:
        """Write a checkpoint, forget those that are neither among the newest nor the best, and return its path.

        Raises:
            FileError: If it cannot be written; the older ones are all still there then.
        """
        target = self.folder / f"step_{step}{_SUFFIX}"
        document = {"step": step, "metric": metric, "state": dict(state), "checksum": checksum_of_state(state)}
        with whole_or_nothing(target) as stream:
            torch.save(document, stream)
        if metric is not None and self._is_best(metric):
            self._mark_best(target)
        self._forget()
        return target

    def load(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None where there is none.

        One that is damaged is passed over for the one before, with a warning that says so.
        """
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except FileError as error:
                warnings.warn(f"passed over a checkpoint: {error}", CheckpointWarning, stacklevel=2)
        return None

    def best(self) -> Checkpoint | None:
        """Return the checkpoint of the best metric; None where no metric was given.

        Raises:
            FileError: If it is damaged.
        """
        path = self.folder / f"best{_SUFFIX}"
        return read_checkpoint(path) if path.exists() else None

    def paths(self) -> list[Path]:
        """Return the checkpoints of the folder by step, the newest last."""
        found = (path for path in self.folder.glob(f"step_*{_SUFFIX}") if path.stem[5:].isdecimal())
        return sorted(found, key=lambda path: int(path.stem[5:]))

    def _is_best(self, metric: float) -> bool:
        best = self.best()
        if best is None or best.metric is None:
            return True
        return metric > best.metric if self.mode == "max" else metric < best.metric

    def _mark_best(self, target: Path) -> None:
        """Give the bytes of a checkpoint a second name, which survives the forgetting of the first."""
        with whole_or_nothing(self.folder / f"best{_SUFFIX}") as stream:
            stream.write(target.read_bytes())

    def _forget(self) -> None:
        for path in self.paths()[: -self.keep]:
            path.unlink(missing_ok=True)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read one checkpoint and compare it with its checksum.

    Raises:
        FileError: If it is missing, damaged, or no checkpoint.
    """
    document = load_plain(path)
    if not isinstance(document, dict) or set(document) != {"step", "metric", "state", "checksum"}:
        raise FileError("it is no checkpoint of fxgrow", where=str(path), fix="name one that Checkpointer.save wrote")
    if checksum_of_state(document["state"]) != document["checksum"]:
        raise FileError("the file is damaged: its state does not fit its checksum", where=str(path), fix="take another")
    return Checkpoint(Path(path), document["step"], document["metric"], document["state"])
