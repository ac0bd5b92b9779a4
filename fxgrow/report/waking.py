"""When each block of a network whose blocks wake began to run."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fxgrow.files import Table
from fxgrow.record.record import WAKING, GrowthEvent


@dataclass(frozen=True)
class BlockTime:
    """One block, and since when it runs."""

    path: str
    event: int  #: number of the event at which it woke; 0 where it runs from the start
    since: float  #: the epoch; where the training loop told none, the number of the event
    source: str  #: the block that it is a half-step of; empty where it runs from the start


def block_times(table: Table) -> list[BlockTime]:
    """Return the blocks that woke, and those that they woke from, in the order of the model."""
    found: dict[str, BlockTime] = {}
    for number, event in enumerate(table.record.history, 1):
        for growth in event.growths:
            if growth.kind == WAKING:
                found.setdefault(growth.site, BlockTime(growth.site, 0, 0, ""))
                found[growth.place] = BlockTime(growth.place, number, epoch_of(number, event), growth.site)
    order = dict.fromkeys(_blocks_in_order(table, found))
    return [found[path] for path in order]


def epoch_of(number: int, event: GrowthEvent) -> float:
    """Return the epoch of an event, or its number where the training loop told none."""
    when = event.context.get("epoch")
    return float(when) if isinstance(when, int | float) else float(number)


def _blocks_in_order(table: Table, paths: Collection[str]) -> Iterator[str]:
    """Yield those of the paths that lead to a node, in the order of the graph."""
    for row in table.nodes:
        steps = row.path.split(".")
        yield from (path for end in range(len(steps)) if (path := ".".join(steps[: end + 1])) in paths)
