"""What the library says of the study, in one file that installs with it: the demo prints it, the README repeats it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.analysis import cost_interval, cost_to_reach
from study.groups import FRONTIERS, Frontier
from study.lines import line, prices
from study.records import Records

#: what the demo trains, against the schedule that is best for the network from scratch
CLAIMED = next(f for f in FRONTIERS if (f.task.name, f.said) == ("mnist1d-mlp", ", rate held"))
TARGET = Path(__file__).parents[2] / "fxgrow" / "demo" / "study.json"
PRICES = ("cost", "flops", "seconds")


@dataclass(frozen=True)
class Reached:
    """At what price a frontier reaches its baseline's loss; the baseline's own price is 1.

    Attributes:
        points: in cost, FLOPs and seconds; not a number where it is not reached. Without seconds where no batches of
            one size have run.
        least: the same prices of the cheapest arm.
        interval: 95 %, of the cost; None for a single seed.
    """

    points: dict[str, float]
    least: dict[str, float]
    interval: tuple[float, float] | None


def reached(frontier: Frontier, records: Records, fresh: int) -> Reached | None:
    """Return at which price a frontier reaches its baseline's loss; None where there are too few records."""
    base = line(records, frontier.task, frontier.baseline, fresh)
    found = [line(records, frontier.task, arm, fresh) for arm in frontier.arms]
    known = [one for one in found if one is not None]
    if base is None or len(known) < 2:
        return None
    losses, base_losses = np.array([one.numbers("loss") for one in known]), np.array(base.numbers("loss"))
    paid = {key: np.array(own) for key in PRICES if (own := prices([base, *known], key))}
    shares = {key: own[1:] / own[0] for key, own in paid.items()}
    means, target = losses.mean(1), float(base_losses.mean())
    return Reached(
        {key: cost_to_reach(share, means, target) for key, share in shares.items()},
        {key: float(share.min()) for key, share in shares.items()},
        cost_interval(shares["cost"], losses, base_losses),
    )


def claim(records: Records) -> dict[str, object] | None:
    """Return what is claimed of half-steps on the demo's task; None where fresh seeds do not show that it is reached.

    An end of the interval that is not reached, and seconds that cannot be compared, are None.
    """
    found = reached(CLAIMED, records, CLAIMED.fresh)
    if found is None or found.interval is None or not np.isfinite(found.points["cost"]):
        return None
    cost, low, high = (_rounded(number) for number in (found.points["cost"], *found.interval))
    seconds = _rounded(found.points.get("seconds"))
    return {"seeds": CLAIMED.fresh, "cost": cost, "low": low, "high": high, "seconds": seconds}


def _rounded(number: float | None) -> float | None:
    return round(number, 2) if number is not None and np.isfinite(number) else None


def write(records: Records) -> None:
    """Write the claim to where the library reads it, if there is one and it is of the repository's records."""
    found = claim(records)
    if found is not None and records.published:
        TARGET.write_text(json.dumps(found, allow_nan=False) + "\n")
