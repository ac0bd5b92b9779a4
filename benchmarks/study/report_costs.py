"""The page's sections on cost: where a frontier reaches the baseline's loss, and what it has at the cost of others."""

from collections.abc import Iterator

import numpy as np

from study.analysis import Difference, at_cost, holm, paired
from study.claims import reached
from study.groups import FRONTIERS, Frontier
from study.lines import Line, line
from study.records import Records
from study.tables import probability, signed, table


def section(records: Records) -> str:
    """Return both tables."""
    return f"{_reached(records)}\n\n{_at_equal_cost(records)}"


def _reached(records: Records) -> str:
    lines = [row for frontier in FRONTIERS for row in _point(frontier, records)]
    head = ["task", "arms", "seeds", "baseline", "cost", "95 % interval", "in FLOPs", "in seconds"]
    note = (
        "Where the mean loss of the arms, interpolated over log cost, meets that of the baseline; the interval "
        "resamples seeds. Below the least cost of an arm nothing is extrapolated."
    )
    return table(head, lines) + "\n\n" + note


def _point(frontier: Frontier, records: Records) -> Iterator[list[str]]:
    for fresh in (frontier.fresh, 0):
        base, found = line(records, frontier.task, frontier.baseline, fresh), reached(frontier, records, fresh)
        if base is None or found is None:
            continue
        arms = [one for arm in frontier.arms if (one := line(records, frontier.task, arm, fresh))]
        least = {key: min(one.mean(key) for one in arms) / base.mean(key) for key in found}
        count = len(base.numbers("loss"))
        seeds = f"{count} fresh" if fresh else f"{count} tuning"
        low, high = (_ratio(number, least["cost"]) for number in found["cost"][1:])
        interval = low if low == high else f"{low} to {high}"
        numbers = [_ratio(point, least[key]) for key, (point, _, _) in found.items()]
        yield [frontier.task.title, frontier.title, seeds, base.arm.name, numbers[0], interval, *numbers[1:]]
        return


def _ratio(value: float, least: float) -> str:
    """Spell a price; of one that is not paid by any arm, and of one that the cheapest arm beats, say so."""
    if not np.isfinite(value):
        return "not reached"
    return f"at most {value:.2f}" if value <= least * (1 + 1e-9) and least < 1 else f"{value:.2f}"


def _at_equal_cost(records: Records) -> str:
    lines = [row for pair in zip(FRONTIERS[::2], FRONTIERS[1::2], strict=True) for row in _pairs(*pair, records)]
    if not lines:
        return ""
    head = [
        "task",
        "seeds",
        "cost",
        "loss, grown - from scratch",
        "95 % interval",
        "p",
        "accuracy, points",
        "95 % interval",
    ]
    note = (
        "At the cost of each run from scratch, with the baseline = 1, on fresh seeds: the grown networks, interpolated "
        "over log cost seed by seed, against it."
    )
    return f"### At equal cost\n\n{table(head, lines)}\n\n{note}"


def _pairs(grown: Frontier, plain: Frontier, records: Records) -> Iterator[list[str]]:
    """Yield a row for each run from scratch whose cost lies between those of two grown networks."""
    ours, theirs = (_lines(frontier, records) for frontier in (grown, plain))
    costs = [one.mean("cost") for one in ours]
    between = [one for one in theirs if len(ours) > 1 and min(costs) <= one.mean("cost") <= max(costs)]
    found = [[_against(one, ours, key) for key in ("loss", "accuracy")] for one in between]
    corrected = holm([loss.p for loss, _ in found])
    full = max((one.mean("cost") for one in theirs), default=1.0)
    for one, (loss, accuracy), p in zip(between, found, corrected, strict=True):
        yield [
            plain.task.title,
            f"{len(one.rows)}",
            f"{one.mean('cost') / full:.2f}",
            signed(loss),
            f"{loss.low:+.4f} to {loss.high:+.4f}",
            probability(p),
            f"{100 * accuracy.mean:+.2f} ± {100 * accuracy.error:.2f}",
            f"{100 * accuracy.low:+.2f} to {100 * accuracy.high:+.2f}",
        ]


def _against(one: Line, frontier: list[Line], key: str) -> Difference:
    values = np.array([arm.numbers(key) for arm in frontier])
    return paired(at_cost([arm.mean("cost") for arm in frontier], values, one.mean("cost")).tolist(), one.numbers(key))


def _lines(frontier: Frontier, records: Records) -> list[Line]:
    found = (line(records, frontier.task, arm, frontier.fresh) for arm in frontier.arms)
    return [one for one in found if one is not None]
