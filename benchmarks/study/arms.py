"""What is compared: a start, cycles of the learning rate, and growth events, all of it data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from study.networks import Shape
from study.rewrites import Rewrite
from study.schedules import Change, Cycle, rates


@dataclass(frozen=True)
class Event:
    """One growth event, before the step ``at``."""

    at: int
    rewrite: Rewrite
    factor: float = 1.0  #: multiplies the learning rate from here on
    rewarm: int = 0  #: steps of a new warm-up


@dataclass(frozen=True)
class Arm:
    """A way to train: where it starts, how the rate goes, when it grows.

    Attributes:
        start: the blocks at step 0.
        share: for each part of the run, from which step on which share of the mini-batch is used.
        zero: the last map of every branch starts at zero.
    """

    name: str
    start: tuple[Shape, ...]
    cycles: tuple[Cycle, ...]
    events: tuple[Event, ...] = ()
    share: tuple[tuple[int, float], ...] = ((0, 1.0),)
    zero: bool = False
    note: str = field(default="", compare=False)

    @property
    def steps(self) -> int:
        """Return the length of the run."""
        return sum(cycle.steps for cycle in self.cycles)

    def rates(self) -> np.ndarray:
        """Return the rate of each step in units of the tuned one."""
        return rates(self.cycles, [Change(event.at, event.factor, event.rewarm) for event in self.events])

    def shares(self) -> np.ndarray:
        """Return the share of the mini-batch that each step uses."""
        found = np.ones(self.steps)
        for start, share in self.share:
            found[start:] = share
        return found


def depth(block: Shape, blocks: int) -> tuple[Shape, ...]:
    """Return so many equal blocks."""
    return (block,) * blocks


def evenly(steps: int, cycles: int, peaks: Sequence[float] = (1.0, 2.0), **options: float) -> tuple[Cycle, ...]:
    """Split a run into cycles of equal length with rising peaks."""
    if cycles == 1:
        return (Cycle(steps, **options),)
    length = steps // cycles
    return tuple(Cycle(length, peak=peak, **options) for peak in peaks[:cycles])
