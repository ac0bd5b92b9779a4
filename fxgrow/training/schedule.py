"""When to grow: schedules, in whatever the training loop counts (epochs or steps)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from fxgrow.errors import PlanError
from fxgrow.primitives.arguments import check_fields

#: Measures which share of the neurons has a significant held-out score; it costs as much as an analysis.
MeasureShare = Callable[[], float]


class Schedule(ABC):
    """Says when growth is due. A growth event that failed, or was missed, stays due."""

    #: how many events there will be, which share a budget evenly; None where nobody knows
    events: int | None

    @abstractmethod
    def due(self, now: float, done: int, metric: float | None, share: MeasureShare) -> bool:
        """Say whether an event is due.

        Args:
            now: The present epoch or step; it never goes back.
            done: How many events there were so far.
            metric: What the loop measured last, for schedules that watch it.
            share: Measures the share of significant neurons, for schedules that ask for it.

        Raises:
            PlanError: If the schedule needs something that it is not given.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule has seen, plain data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class At(Schedule):
    """Growth at given epochs or steps.

    Example:
        >>> At((10, 20)).due(20, 1, None, float)
        True
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_times(self.times)

    @property
    def events(self) -> int:  # type: ignore[override]
        """One for each time."""
        return len(self.times)

    def due(self, now: float, done: int, metric: float | None, share: MeasureShare) -> bool:
        """Say whether more times have come than events were made."""
        return sum(time <= now for time in self.times) > done


@dataclass(frozen=True)
class Every(Schedule):
    """Growth after a warm-up, and then in equal steps; the paper's is ``Every(30, after=50)``, of epochs.

    Args:
        period: Epochs or steps between two events.
        after: When the first one is due.
        events: How many there are; without it they do not end, and each needs a budget of its own.
    """

    period: float
    after: float = 0
    events: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, PlanError)
        if self.period <= 0 or self.after < 0 or (self.events is not None and self.events < 1):
            raise PlanError("it is no schedule", where=str(self), fix="give a positive period, and a warm-up from 0 on")

    def due(self, now: float, done: int, metric: float | None, share: MeasureShare) -> bool:
        """Say whether more periods have begun than events were made."""
        begun = 0 if now < self.after else 1 + int((now - self.after) // self.period)
        return done < (begun if self.events is None else min(begun, self.events))


@dataclass
class Plateau(Schedule):
    """Growth when a metric has not improved for a while; it is watched anew after each event.

    Args:
        patience: How many calls of `Grower.due` without improvement make a plateau.
        mode: Whether less (``"min"``) or more (``"max"``) of the metric is better.
        threshold: What counts as an improvement, as a share of the best value.
        after: Nothing is due before, whatever the metric does.
        events: How many events there are at most.
    """

    patience: int
    mode: Literal["min", "max"] = "min"
    threshold: float = 1e-3
    after: float = 0
    events: int | None = None
    _best: float = field(default=math.nan, init=False)
    _waited: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _now: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        check_fields(self, PlanError)
        numbers = self.patience >= 1 and self.threshold >= 0 and (self.events is None or self.events >= 1)
        if not numbers or self.mode not in ("min", "max"):
            fix = "give a patience from 1 on, mode='min' or 'max', and a threshold from 0 on"
            raise PlanError("it is no schedule", where=str(self), fix=fix)

    def due(self, now: float, done: int, metric: float | None, share: MeasureShare) -> bool:
        """Take note of the metric, once for each `now`, and say whether it is at a plateau."""
        if metric is None:
            fix = "call due(now, metric=...) with what the loop measured"
            raise PlanError("a plateau is one of a metric, and none is given", where="due", fix=fix)
        if done > self._done:
            self._best, self._waited, self._done = math.nan, 0, done
        if now > self._now:
            self._now = now
            self._waited = 0 if self._improves(metric) else self._waited + 1
            self._best = metric if self._waited == 0 else self._best
        spent = self.events is not None and done >= self.events
        return not spent and now >= self.after and self._waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and since when it is."""
        return {name: getattr(self, name) for name in ("_best", "_waited", "_done", "_now")}

    def _improves(self, metric: float) -> bool:
        if math.isnan(self._best):
            return True
        margin = self.threshold * abs(self._best)
        return metric < self._best - margin if self.mode == "min" else metric > self._best + margin


@dataclass(frozen=True)
class Significance(Schedule):
    """Growth when enough neurons have a held-out score that is significant, as asked every so often.

    Args:
        share: The share of the neurons, over all scored sites, from which growth is due.
        every: The scores are measured at multiples of it, of epochs or steps.
        after: Nothing is measured before.
        events: How many events there are at most.
    """

    share: float
    every: int = 1
    after: float = 0
    events: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, PlanError)
        if not 0 < self.share <= 1 or self.every < 1:
            raise PlanError("it is no schedule", where=str(self), fix="give a share up to 1, and every=1 or more")

    def due(self, now: float, done: int, metric: float | None, share: MeasureShare) -> bool:
        """Measure the share where it is time to, and compare it."""
        if now < self.after or now % self.every or (self.events is not None and done >= self.events):
            return False
        return share() >= self.share


#: when: a schedule, or the epochs or steps
Times = Schedule | Iterable[float] | float


def as_schedule(at: Times) -> Schedule:
    """Return a schedule as it is, and times as `At`.

    Raises:
        PlanError: If a time is negative, no number, or given twice.
    """
    if isinstance(at, Schedule):
        return at
    return At(tuple(sorted(_check_times(tuple(at) if isinstance(at, Iterable) else (at,)))))


def growth_epochs(epochs: int, events: int, *, first: float = 0.25, last: float = 0.6) -> tuple[int, ...]:
    """Return the epochs, counted from 0, before which a model grows: `events` of them, evenly spaced.

    Curvature means little before about a quarter of the training, and what grows late has no time to learn.

    Args:
        epochs: Length of the training.
        events: Number of growth events.
        first: Share of the training before the first event.
        last: Share of the training before the last event.

    Raises:
        PlanError: If the events do not fit: every event needs an epoch before it and one of its own after it.

    Example:
        >>> growth_epochs(40, 3)
        (10, 17, 24)
    """
    if events < 1 or not 0 <= first <= last <= 1:
        raise PlanError(
            f"{events} events between {first:.0%} and {last:.0%} of the training make no schedule",
            where="the growth schedule",
            fix="ask for one event or more, and for shares between 0 and 1 in order",
        )
    step = (last - first) / max(events - 1, 1)
    chosen = tuple(max(1, round(epochs * (first + index * step))) for index in range(events))
    if len(set(chosen)) < events or chosen[-1] >= epochs:
        raise PlanError(
            f"{events} growth events do not fit into {epochs} epochs",
            where="the growth schedule",
            fix="train longer, or grow less often",
        )
    return chosen


def _check_times(times: tuple[float, ...]) -> tuple[float, ...]:
    if any(isinstance(time, bool) or not isinstance(time, int | float) or not time >= 0 for time in times):
        raise PlanError(f"{times} are not all epochs or steps", where="at", fix="give numbers from 0 on")
    if len(set(times)) < len(times):
        raise PlanError(f"{times} has a time twice", where="at", fix="name each once")
    return times
