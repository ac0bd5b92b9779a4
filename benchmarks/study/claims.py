"""What the library says of the study, in one file that installs with it: the demo prints it, the README repeats it."""

import json
from pathlib import Path

import numpy as np

from study.analysis import cost_ratio
from study.groups import FRONTIERS, Frontier
from study.lines import line
from study.records import Records

TARGET = Path(__file__).parents[2] / "fxgrow" / "demo" / "study.json"
_PRICES = ("cost", "flops", "seconds")


def reached(frontier: Frontier, records: Records, fresh: int) -> dict[str, tuple[float, float, float]] | None:
    """Return at which cost, in FLOPs and in seconds, a frontier reaches its baseline's loss, with 95 % intervals.

    The baseline's own price is 1. None where there are too few records.
    """
    base = line(records, frontier.task, frontier.baseline, fresh)
    found = [line(records, frontier.task, arm, fresh) for arm in frontier.arms]
    known = [one for one in found if one is not None]
    if base is None or len(known) < 2:
        return None
    losses, base_losses = np.array([one.numbers("loss") for one in known]), np.array(base.numbers("loss"))
    return {key: cost_ratio([one.mean(key) for one in known], losses, base.mean(key), base_losses) for key in _PRICES}


def claim(records: Records) -> dict[str, object] | None:
    """Return what is claimed of half-steps on the demo's task; None where it has not been run on fresh seeds."""
    frontier = next(f for f in FRONTIERS if f.task.name == "mnist1d-mlp" and f.title == "1-2-4-8 by half-steps")
    found = reached(frontier, records, frontier.fresh)
    base = line(records, frontier.task, frontier.baseline, frontier.fresh)
    if found is None or base is None:
        return None
    cost, low, high = (round(number, 2) for number in found["cost"])
    seconds = round(found["seconds"][0], 2)
    return {"seeds": len(base.numbers("loss")), "cost": cost, "low": low, "high": high, "seconds": seconds}


def write(records: Records) -> None:
    """Write the claim to where the library reads it, if there is one."""
    found = claim(records)
    if found is not None:
        TARGET.write_text(json.dumps(found) + "\n")
