"""The study, as data: which arms on which task, over which rates, on which seeds, in the order in which they run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from study import arms_of
from study.arms import Arm
from study.records import Records
from study.tasks import TASKS, Task


@dataclass(frozen=True)
class Experiment:
    """Runs of one arm: over a grid of rates to tune it, or at its tuned rate on fresh seeds."""

    task: Task
    arm: Arm
    seeds: tuple[int, ...]
    tuning: tuple[int, ...] = ()  #: seeds of the experiment that tuned the rate; none: this one does

    @property
    def confirms(self) -> bool:
        """Whether the rate is fixed and the seeds are fresh."""
        return bool(self.tuning)

    def rates(self, records: Records) -> tuple[float, ...]:
        """Return the rates to run: the grid, or the one that was tuned; none while the tuning is not finished."""
        if not self.confirms:
            return self.task.rates
        best = tuned(records, self.task, self.arm, self.tuning)
        return () if best is None else (best,)


def tuned(records: Records, task: Task, arm: Arm, seeds: tuple[int, ...]) -> float | None:
    """Return the rate with the least mean test loss over the tuning seeds; None while some have not run."""
    losses = {}
    for rate in task.rates:
        rows = records.of(task, arm, rate, seeds)
        if rows is None:
            return None
        losses[rate] = sum(float(str(row["loss"])) for row in rows) / len(rows)
    return min(losses, key=lambda rate: losses[rate])


def experiments() -> Iterator[Experiment]:
    """Yield the study."""
    for wave in arms_of.WAVES:
        for name, arms, fresh in wave:
            yield from _of(TASKS[name], arms, fresh)


def _of(task: Task, arms: Iterable[Arm], fresh: int) -> Iterator[Experiment]:
    """Yield the tuning of some arms, or with ``fresh`` seeds their confirmation."""
    tuning = tuple(range(task.tuning))
    for arm in arms:
        if fresh:
            yield Experiment(task, arm, tuple(range(1000, 1000 + fresh)), tuning)
        else:
            yield Experiment(task, arm, tuning)
