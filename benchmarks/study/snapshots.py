"""States on the disk: what an interrupted run goes on from, and what arms with the same beginning share."""

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch

from study.arms import Arm
from study.records import Records
from study.tasks import Members, Task

if TYPE_CHECKING:
    from study.running import Progress

_ABANDONED = 3_600.0  #: seconds after which an unfinished file is nobody's
_ENGINE = 2  #: to be raised when the same data would be trained differently


@dataclass(frozen=True)
class Snapshots:
    """A folder of states. A state is found by everything that it depends on, so it can never be the wrong one."""

    folder: Path
    limit: int = 60  #: files; the oldest go first

    @classmethod
    def of(cls, records: Records) -> "Snapshots":
        """Return the states of some records' runs: a repeat must not find those of what it repeats."""
        return cls(Path("runs/study/snapshots") if records.published else records.folder / "snapshots")

    def save(self, progress: "Progress", task: Task, arm: Arm, members: Members) -> None:
        """Keep a state; other processes may do the same."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(task, arm, members, progress.step)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(progress, unfinished)
        unfinished.rename(path)
        kept = sorted(self.folder.glob("*.pt"), key=_written, reverse=True)
        left = [old for old in self.folder.glob("*.tmp") if _written(old) < time.time() - _ABANDONED]
        for old in (*kept[self.limit :], *left):
            old.unlink(missing_ok=True)

    def latest(self, task: Task, arm: Arm, members: Members, until: int | None = None) -> Optional["Progress"]:
        """Return the latest state that this run would pass through, to its end or to a step, if one is kept."""
        steps = {int(path.name.split("-")[0]) for path in self.folder.glob("*.pt")}
        for step in sorted((step for step in steps if step <= (until or arm.steps)), reverse=True):
            path = self._path(task, arm, members, step)
            with suppress(FileNotFoundError):
                os.utime(path)
                return torch.load(path, weights_only=False)
        return None

    def _path(self, task: Task, arm: Arm, members: Members, step: int) -> Path:
        return self.folder / f"{step:06d}-{beginning(task, arm, members, step)}.pt"


def _written(path: Path) -> float:
    """Return when a file was last used; one that another process has just removed is an old one."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def beginning(task: Task, arm: Arm, members: Members, step: int) -> str:
    """Return a digest of all that the state before a step depends on; events of that very step are not yet done."""
    events = [(event.at, event.rewrite) for event in arm.events if event.at < step]
    said = (_ENGINE, task.name, task.architecture, task.batch, members, arm.start, arm.zero, events)
    numbers = arm.rates()[:step].tobytes() + arm.shares()[:step].tobytes()
    return hashlib.sha256(repr(said).encode() + numbers).hexdigest()[:20]
