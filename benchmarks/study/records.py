"""Finished cells: JSON lines, one for each task, arm, rate and seed."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from study import jsonl
from study.arms import Arm
from study.tasks import Task

FOLDER = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Cell:
    """What a record belongs to. The digest is of the arm's data: an arm that was changed has no records."""

    task: str
    arm: str
    digest: str
    rate: float
    seed: int


def cell(task: Task, arm: Arm, rate: float, seed: int) -> Cell:
    """Return the cell of one run."""
    said = (task.architecture, task.batch, arm.start, arm.zero, arm.events, arm.cycles, arm.share)
    return Cell(task.name, arm.name, hashlib.sha256(repr(said).encode()).hexdigest()[:12], rate, seed)


class Records:
    """The records of a folder, one file for each task; what is added is on the disk at once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.rows: dict[Cell, dict[str, object]] = {}
        self._together: Counter[tuple[object, ...]] = Counter()
        self.read()

    @property
    def published(self) -> bool:
        """Whether they are those of the repository."""
        return self.folder.resolve() == FOLDER.resolve()

    def read(self) -> None:
        """Read what is on the disk: other processes may have recorded something."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for row in jsonl.read(path):
                self._keep(row)

    def _keep(self, row: dict[str, object]) -> None:
        key = Cell(**{name: row[name] for name in Cell.__dataclass_fields__})
        if key in self.rows:
            self._together[_job(self.rows[key])] -= 1
        self.rows[key] = row
        self._together[_job(row)] += 1

    def together(self, row: dict[str, object]) -> int:
        """Return how many networks trained in one batch with that of a row: they have the very same seconds."""
        return self._together[_job(row)]

    def __contains__(self, wanted: Cell) -> bool:
        return wanted in self.rows

    def add(self, task: Task, arm: Arm, found: Iterable[dict[str, object]]) -> None:
        """Append what came out of a run, with the machine, the versions and the time."""
        keys = ((row, cell(task, arm, float(str(row["rate"])), int(str(row["seed"])))) for row in found)
        rows = [{**vars(key), **row, **circumstances()} for row, key in keys]
        jsonl.append(self.folder / f"{task.name}.jsonl", rows)
        for row in rows:
            self._keep(row)

    def of(self, task: Task, arm: Arm, rate: float, seeds: Sequence[int]) -> list[dict[str, object]] | None:
        """Return the records of an arm in the order of the seeds, or None if some are missing."""
        cells = [cell(task, arm, rate, seed) for seed in seeds]
        return [self.rows[key] for key in cells] if all(key in self for key in cells) else None


def _job(row: dict[str, object]) -> tuple[object, ...]:
    return row["task"], row["arm"], row["digest"], row.get("seconds")


def circumstances() -> dict[str, str]:
    """Return when, by which versions and on which machine a record is made."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
