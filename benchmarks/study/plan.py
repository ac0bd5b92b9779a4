"""The study, as data: which arms on which task, over which rates, on which seeds, in the order in which they run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from study.analysis import Difference, paired
from study.arms import Arm
from study.groups import GATES, GROUPS
from study.records import Records
from study.tasks import Task

GATE_SEEDS = 3


@dataclass(frozen=True)
class Experiment:
    """Runs of one arm: over a grid of rates to tune it, or at its tuned rate on fresh seeds."""

    task: Task
    arm: Arm
    seeds: tuple[int, ...]
    tuning: tuple[int, ...] = ()  #: seeds of the experiment that tuned the rate; none: this one does
    is_gate: bool = False  #: one of the two networks that show whether capacity binds
    rate_of: Arm | None = None  #: the arm whose tuned rate it takes, where that is not its own

    @property
    def confirms(self) -> bool:
        """Whether the rate is fixed and the seeds are fresh."""
        return bool(self.tuning)

    def rates(self, records: Records) -> tuple[float, ...]:
        """Return the rates to run: the grid, or the one that was tuned; none while the tuning is not finished."""
        if not self.confirms:
            return self.task.rates
        best = tuned(records, self.task, self.rate_of or self.arm, self.tuning)
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
    """Yield the study: before the first arms of a task its gate, tuned and then on fresh seeds."""
    opened = set()
    for group in GROUPS:
        if group.task.name not in opened:
            opened.add(group.task.name)
            for fresh in (0, GATE_SEEDS):
                for arm in GATES[group.task.name]:
                    yield replace(_experiment(group.task, arm, fresh), is_gate=True)
        for arm in (group.baseline, *group.arms):
            yield replace(_experiment(group.task, arm, group.fresh), rate_of=group.rate_of)


def _experiment(task: Task, arm: Arm, fresh: int) -> Experiment:
    tuning = tuple(range(task.tuning))
    return Experiment(task, arm, fresh_seeds(fresh), tuning) if fresh else Experiment(task, arm, tuning)


def fresh_seeds(count: int) -> tuple[int, ...]:
    """Return seeds on which nothing was tuned or chosen."""
    return tuple(range(1000, 1000 + count))


def gate(records: Records, task: Task) -> Difference | None:
    """Return how much less loss the bigger uniform network has than the smaller; None while it has not run.

    The task is used if that is more than 3 standard errors.
    """
    found = []
    for arm in reversed(GATES[task.name]):
        rate = tuned(records, task, arm, tuple(range(task.tuning)))
        rows = rate and records.of(task, arm, rate, fresh_seeds(GATE_SEEDS))
        if not rows:
            return None
        found.append([float(str(row["loss"])) for row in rows])
    return paired(*found)


def binds(difference: Difference | None) -> bool:
    """Tell whether capacity binds on a task; while its gate has not run, its arms wait."""
    return difference is not None and difference.mean < -3 * difference.error
