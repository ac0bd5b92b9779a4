"""What the library says of the study, in one file that installs with it: the demo prints it, the README repeats it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.analysis import cost_interval, cost_to_reach
from study.groups import FRONTIERS, Frontier
from study.lines import line, prices
from study.records import Records

_OF_THE_DEMO = [frontier for frontier in FRONTIERS if frontier.task.name == "mnist1d-mlp"]
#: what the demo trains, and the same where each has the best change of its rate in the middle
CLAIMED = next(f for f in _OF_THE_DEMO if f.said == ", rate held")
BEST = next(f for f in _OF_THE_DEMO if f.said.startswith(", rate held, blocks at another"))
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
    same, best = (reached(frontier, records, frontier.fresh) for frontier in (CLAIMED, BEST))
    if same is None or best is None or not (_is_shown(same) and _is_shown(best)):
        return None
    seconds = _rounded(same.points.get("seconds"))
    return {
        "seeds": min(CLAIMED.fresh, BEST.fresh),
        "cost": _interval(same),
        "best": _interval(best),
        "seconds": seconds,
    }


def _is_shown(found: Reached) -> bool:
    return found.interval is not None and bool(np.isfinite([found.points["cost"], found.interval[0]]).all())


def _interval(found: Reached) -> dict[str, float | None]:
    low, high = found.interval or (None, None)
    return {"cost": _rounded(found.points["cost"]), "low": _rounded(low), "high": _rounded(high)}


def _rounded(number: float | None) -> float | None:
    return round(number, 2) if number is not None and np.isfinite(number) else None


def write(records: Records) -> None:
    """Write the claim to where the library reads it, if there is one and it is of the repository's records."""
    found = claim(records)
    if found is not None and records.published:
        TARGET.write_text(json.dumps(found, allow_nan=False) + "\n")
