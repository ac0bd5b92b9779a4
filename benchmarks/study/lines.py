"""What the records say of one arm."""

from dataclasses import dataclass

import numpy as np

from study.arms import Arm
from study.plan import fresh_seeds, tried, tuned
from study.records import Records
from study.tasks import Task


@dataclass(frozen=True)
class Line:
    """One arm at its tuned rate on some seeds."""

    arm: Arm
    rate: float
    rates: tuple[float, ...]  #: those that it was chosen from
    rows: list[dict[str, object]]

    def numbers(self, key: str) -> list[float]:
        """Return one number of each seed."""
        return [float(str(row[key])) for row in self.rows]

    def mean(self, key: str) -> float:
        """Return the mean of a number over the seeds."""
        return float(np.mean(self.numbers(key)))


def line(records: Records, task: Task, arm: Arm, fresh: int, rate_of: Arm | None = None) -> Line | None:
    """Return what is known of an arm: at its tuned rate or another's, on fresh seeds or on those that tuned it."""
    tuning = tuple(range(task.tuning))
    rate = tuned(records, task, rate_of or arm, tuning)
    rows = rate and records.of(task, arm, rate, fresh_seeds(fresh) if fresh else tuning)
    return Line(arm, rate, tuple(tried(records, task, rate_of or arm, tuning)), rows) if rate and rows else None
