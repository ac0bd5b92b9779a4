"""What the study claims of half-steps on the demo's task, as `python benchmarks/study report` wrote it."""

from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True)
class Interval:
    """A cost in parameters x steps, and its 95 % interval."""

    cost: float
    low: float
    high: float | None  #: None: open

    def __str__(self) -> str:
        return f"from {self.low:.2f} on, open above" if self.high is None else f"{self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class Claim:
    """At what price half-steps reach the loss of the same network from scratch; the latter's own price is 1.

    Both train as in the demo, at a rate that is held; in ``best`` the blocks of each have the rate from the middle on
    that is the best of those that the study tried.
    """

    seeds: int  #: on which nothing was tuned
    cost: Interval
    best: Interval
    seconds: float | None  #: in processor time; None: not measured for both alike

    def __str__(self) -> str:
        time = "" if self.seconds is None else f", and in {self.seconds:.2f} of its processor time"
        return (
            f"In the study, over {self.seeds} seeds on which nothing was tuned, half-steps reach the loss of the "
            f"network from scratch at {self.cost.cost:.2f} of its cost (95 % interval {self.cost}){time}; where the "
            "rate of both rises in the middle, which is better for both, at "
            f"{self.best.cost:.2f} of its cost ({self.best})."
        )


def read_claim() -> Claim:
    """Return the claim that this version of the library makes."""
    return msgspec.json.decode((Path(__file__).parent / "study.json").read_bytes(), type=Claim)
