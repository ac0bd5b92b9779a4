"""Learning rates as data: cycles of warm-up, hold and cosine decay, changed by growth events."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cycle:
    """Warm-up to a peak, a hold, and a cosine to zero.

    ``Cycle(n)`` is a cosine cycle, ``Cycle(n, hold=0.7)`` is warm-up, stable, decay.
    """

    steps: int
    peak: float = 1.0  #: in units of the arm's learning rate
    warm: float = 0.05  #: share of the cycle
    hold: float = 0.0  #: share of the cycle before the decay begins, warm-up counted

    def rates(self) -> np.ndarray:
        """Return the rate of each step, (steps,)."""
        time = (np.arange(self.steps) + 0.5) / self.steps
        start = max(self.warm, self.hold)
        decay = np.clip((time - start) / (1 - start), 0, 1)
        ramp = np.clip(time / self.warm, 0, 1) if self.warm else 1.0
        return self.peak * ramp * (1 + np.cos(np.pi * decay)) / 2


@dataclass(frozen=True)
class Change:
    """What a growth event does to the rates from its step on."""

    at: int
    factor: float = 1.0
    rewarm: int = 0  #: steps of a linear warm-up that begins here


def rates(cycles: Sequence[Cycle], changes: Sequence[Change] = ()) -> np.ndarray:
    """Return the rates of all cycles, one after the other, in units of the arm's learning rate."""
    found = np.concatenate([cycle.rates() for cycle in cycles])
    for change in changes:
        found[change.at :] *= change.factor
        if change.rewarm:
            length = min(change.rewarm, len(found) - change.at)
            found[change.at : change.at + length] *= (np.arange(length) + 0.5) / change.rewarm
    return found
