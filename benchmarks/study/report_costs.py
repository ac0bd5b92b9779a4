"""The page's sections on cost: where a frontier reaches the baseline's loss, and what it has at the cost of others."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from study.analysis import Difference, at_cost, holm, paired
from study.claims import PRICES, reached
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
        "Where the mean loss of the arms, interpolated over log cost, meets that of the baseline. The interval holds "
        "the costs at which Student's t interval (95 %) of the difference between the arms, interpolated seed by seed, "
        "and the baseline contains 0. No interval includes the choice of the rates, which on text and on warped digits "
        "was made on one seed. Below the least cost of an arm nothing is extrapolated, nor above the greatest."
    )
    return table(head, lines) + "\n\n" + note


def _point(frontier: Frontier, records: Records) -> Iterator[list[str]]:
    for fresh in (frontier.fresh, 0):
        found = reached(frontier, records, fresh)
        if found is None:
            continue
        seeds = f"{fresh} fresh" if fresh else f"{frontier.task.tuning} tuning"
        ends = dict.fromkeys(_ratio(end, found.least["cost"]) for end in found.interval or ())
        cost, *others = [_ratio(found.points[key], found.least[key]) if key in found.points else "" for key in PRICES]
        said = [frontier.task.title, frontier.title + frontier.said, seeds, frontier.baseline.name]
        yield [*said, cost, " to ".join(ends), *others]
        return


def _ratio(value: float, least: float) -> str:
    """Spell a price; of one that is not paid by any arm, and of one that the cheapest arm beats, say so."""
    if not np.isfinite(value):
        return "not reached"
    return f"at most {value:.2f}" if value <= least * (1 + 1e-9) and least < 1 else f"{value:.2f}"


def _at_equal_cost(records: Records) -> str:
    pairs = zip(FRONTIERS[::2], FRONTIERS[1::2], strict=True)
    compared = [each for grown, plain in pairs for each in _compared(grown, plain, records)]
    if not compared:
        return ""
    corrected = holm([each.loss.p for each in compared])
    lines = [_spelled(each, p) for each, p in zip(compared, corrected, strict=True)]
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
        "over log cost seed by seed, against it; *p* is corrected for all rows."
    )
    return f"### At equal cost\n\n{table(head, lines)}\n\n{note}"


@dataclass(frozen=True)
class _Compared:
    """Grown networks against one run from scratch, at its cost."""

    plain: Frontier
    cost: float  #: the longest run from scratch = 1
    loss: Difference
    accuracy: Difference


def _compared(grown: Frontier, plain: Frontier, records: Records) -> Iterator[_Compared]:
    """Yield each run from scratch whose cost lies between those of two grown networks."""
    ours, theirs = (_lines(frontier, records) for frontier in (grown, plain))
    costs = [one.mean("cost") for one in ours]
    full = max((one.mean("cost") for one in theirs), default=1.0)
    for one in theirs:
        if len(ours) > 1 and min(costs) <= one.mean("cost") <= max(costs):
            found = (_against(one, ours, key) for key in ("loss", "accuracy"))
            yield _Compared(plain, one.mean("cost") / full, *found)


def _spelled(compared: _Compared, p: float) -> list[str]:
    loss, accuracy = compared.loss, compared.accuracy
    return [
        compared.plain.task.title + compared.plain.said,
        f"{compared.plain.fresh}",
        f"{compared.cost:.2f}",
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
