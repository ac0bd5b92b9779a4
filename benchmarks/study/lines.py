"""What the records say of one arm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.arms import Arm
from study.plan import tried, tuned
from study.records import Records
from study.tasks import Task, fresh_seeds


@dataclass(frozen=True)
class Line:
    """One arm at its tuned rate on some seeds."""

    arm: Arm
    rate: float
    rates: tuple[float, ...]  #: those that it was chosen from
    rows: list[dict[str, object]]
    together: tuple[int, ...]  #: how many networks trained in one batch with that of each row

    def numbers(self, key: str) -> list[float]:
        """Return one number of each seed."""
        return [float(str(row[key])) for row in self.rows]

    def mean(self, key: str) -> float:
        """Return the mean of a number over the seeds."""
        return float(np.mean(self.numbers(key)))

    def seconds(self, together: int) -> float:
        """Return the mean processor time of a seed in batches of so many networks."""
        found = zip(self.numbers("seconds"), self.together, strict=True)
        return float(np.mean([seconds for seconds, own in found if own == together]))


def prices(lines: Sequence[Line], key: str) -> list[float] | None:
    """Return the mean cost, FLOPs or seconds of each line, to be compared with each other.

    The processor time of a seed depends on how many networks train in one batch with it. So seconds are those of the
    greatest batches that all lines have; None where they have none of one size.
    """
    if key != "seconds":
        return [one.mean(key) for one in lines]
    common = set.intersection(*(set(one.together) for one in lines))
    return [one.seconds(max(common)) for one in lines] if common else None


def line(records: Records, task: Task, arm: Arm, fresh: int, rate_of: Arm | None = None, after: int = 0) -> Line | None:
    """Return what is known of an arm: at its tuned rate or another's, on fresh seeds or on those that tuned it."""
    tuning = tuple(range(task.tuning))
    rate = tuned(records, task, rate_of or arm, tuning)
    rows = rate and records.of(task, arm, rate, fresh_seeds(fresh, after) if fresh else tuning)
    if not rate or not rows:
        return None
    rates = tuple(tried(records, task, rate_of or arm, tuning))
    return Line(arm, rate, rates, rows, tuple(records.together(row) for row in rows))
