"""The study, as data: which arms on which task, over which rates, on which seeds, in the order in which they run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from study.analysis import Difference, paired
from study.arms import Arm
from study.groups import GATES, GROUPS
from study.records import Records
from study.tasks import Task, fresh_seeds

_BEYOND = 3  #: a grid goes on for so many doublings at most


@dataclass(frozen=True)
class Experiment:
    """Runs of one arm: over a grid of rates to tune it, or at its tuned rate on fresh seeds."""

    task: Task
    arm: Arm
    seeds: tuple[int, ...]
    tuning: tuple[int, ...] = ()  #: seeds of the experiment that tuned the rate; none: this one does
    is_gate: bool = False  #: one of the two networks that show whether capacity binds
    rate_of: Arm | None = None  #: the arm whose tuned rate it takes, where that is not its own
    explores: bool = False  #: nothing is claimed of it on fresh seeds, so that its grid ends where it ends

    @property
    def confirms(self) -> bool:
        """Whether the rate is fixed and the seeds are fresh."""
        return bool(self.tuning)

    @property
    def tunes(self) -> "Experiment":
        """Return the experiment that tunes the rate of one that confirms."""
        return Experiment(self.task, self.rate_of or self.arm, self.tuning)

    def rates(self, records: Records) -> tuple[float, ...]:
        """Return the rates to run: the grid, or the one that was tuned; none while the tuning is not finished."""
        if self.explores:
            return self.task.rates
        if not self.confirms:
            return grid(records, self.task, self.arm, self.seeds)
        best = tuned(records, self.task, self.rate_of or self.arm, self.tuning)
        return () if best is None else (best,)


def grid(records: Records, task: Task, arm: Arm, seeds: tuple[int, ...]) -> tuple[float, ...]:
    """Return the rates over which an arm is tuned: the task's, and on beyond an end for as long as it is the best."""
    losses = tried(records, task, arm, seeds)
    rates = sorted(losses or task.rates)
    best = tuned(records, task, arm, seeds)
    if best is None:
        return tuple(rates)
    if best == rates[0] and best > min(task.rates) / 2**_BEYOND:
        rates.insert(0, best / 2)
    elif best == rates[-1] and best < max(task.rates) * 2**_BEYOND:
        rates.append(best * 2)
    return tuple(rates)


def tuned(records: Records, task: Task, arm: Arm, seeds: tuple[int, ...]) -> float | None:
    """Return the rate with the least mean test loss on the tuning seeds; None while some of the task's have not run."""
    losses = tried(records, task, arm, seeds)
    return min(losses, key=losses.__getitem__) if losses else None


def tried(records: Records, task: Task, arm: Arm, seeds: tuple[int, ...]) -> dict[float, float]:
    """Return the mean test loss at each rate that has run; none before all rates of the task have.

    A loss that is not a number, of a run that diverged, counts as infinite.
    """
    beyond = [2.0**k for k in range(1, _BEYOND + 1)]
    rates = {*task.rates, *(min(task.rates) / k for k in beyond), *(max(task.rates) * k for k in beyond)}
    rows = {rate: records.of(task, arm, rate, seeds) for rate in sorted(rates)}
    found = {rate: np.mean([float(str(row["loss"])) for row in own]) for rate, own in rows.items() if own}
    losses = {rate: float(np.nan_to_num(loss, nan=np.inf)) for rate, loss in found.items()}
    return losses if set(task.rates) <= set(losses) else {}


def experiments() -> Iterator[Experiment]:
    """Yield the study: before the first arms of a task its gate, tuned and then on fresh seeds."""
    opened = set()
    claimed = {(group.task.name, group.rate_of or arm) for group in GROUPS if group.fresh for arm in group.members}
    claimed |= {(name, arm) for name, gates in GATES.items() for arm in gates}
    for group in GROUPS:
        if group.task.name not in opened:
            opened.add(group.task.name)
            for fresh in (0, group.task.gate_seeds):
                for arm in GATES[group.task.name]:
                    yield replace(_experiment(group.task, arm, fresh_seeds(fresh)), is_gate=True)
        for arm in group.members:
            explores = (group.task.name, arm) not in claimed and not group.fresh
            yield replace(_experiment(group.task, arm, group.seeds), rate_of=group.rate_of, explores=explores)


def _experiment(task: Task, arm: Arm, fresh: tuple[int, ...]) -> Experiment:
    tuning = tuple(range(task.tuning))
    return Experiment(task, arm, fresh, tuning) if fresh else Experiment(task, arm, tuning)


def gate(records: Records, task: Task) -> Difference | None:
    """Return how much less loss the bigger uniform network has than the smaller; None while it has not run.

    The task is used if that is more than 3 standard errors.
    """
    found = []
    for arm in reversed(GATES[task.name]):
        rate = tuned(records, task, arm, tuple(range(task.tuning)))
        rows = rate and records.of(task, arm, rate, fresh_seeds(task.gate_seeds))
        if not rows:
            return None
        found.append([float(str(row["loss"])) for row in rows])
    return paired(*found)


def binds(difference: Difference | None) -> bool:
    """Tell whether capacity binds on a task; while its gate has not run, its arms wait."""
    return difference is not None and difference.mean < -3 * difference.error
