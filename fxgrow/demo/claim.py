"""What the study claims of half-steps on the demo's task, as `python benchmarks/study report` wrote it."""

from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True)
class Claim:
    """At what price half-steps reach the loss of the same network from scratch; the latter's own price is 1."""

    seeds: int  #: on which nothing was tuned
    cost: float  #: in parameters x steps
    low: float  #: of the 95 % interval of the cost
    high: float | None  #: None: open
    seconds: float | None  #: in processor time; None: not measured for both alike

    def __str__(self) -> str:
        interval = f"{self.low:.2f} and more" if self.high is None else f"{self.low:.2f} to {self.high:.2f}"
        time = "" if self.seconds is None else f", in {self.seconds:.2f} of its time there"
        return (
            f"In the study, over {self.seeds} seeds on which nothing was tuned, half-steps reach the loss of the "
            f"network from scratch at {self.cost:.2f} of its cost (95 % interval {interval}){time}."
        )


def read_claim() -> Claim:
    """Return the claim that this version of the library makes."""
    return msgspec.json.decode((Path(__file__).parent / "study.json").read_bytes(), type=Claim)
