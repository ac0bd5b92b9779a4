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
        end = "and more" if self.high is None else f"to {self.high:.2f}"
        return f"{self.low:.2f} {end}"


@dataclass(frozen=True)
class Claim:
    """At what price half-steps reach the loss of the same network from scratch; the latter's own price is 1.

    Both train as in the demo, at a rate that is held; in ``best`` both have the best change of their rate in the
    middle that the study found, which is better for both.
    """

    seeds: int  #: on which nothing was tuned
    cost: Interval
    best: Interval
    seconds: float | None  #: in processor time; None: not measured for both alike

    def __str__(self) -> str:
        time = "" if self.seconds is None else f", in {self.seconds:.2f} of its time there"
        return (
            f"In the study, over {self.seeds} seeds on which nothing was tuned, half-steps reach the loss of the "
            f"network from scratch at {self.cost.cost:.2f} of its cost (95 % interval {self.cost}){time}; where the "
            f"rate of both changes in the middle, which is better for both, at {self.best.cost:.2f} ({self.best})."
        )


def read_claim() -> Claim:
    """Return the claim that this version of the library makes."""
    return msgspec.json.decode((Path(__file__).parent / "study.json").read_bytes(), type=Claim)
