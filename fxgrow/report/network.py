"""The network block by block: each site with the depth of each of its neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from fxgrow.files import Table
from fxgrow.files.table import NodeRow
from fxgrow.plot.depth import block_of
from fxgrow.plot.moments import own_sites


@dataclass(frozen=True)
class SiteDepths:
    """One site and how deep its neurons are."""

    path: str
    label: str  #: the path below the block
    operation: str
    depths: tuple[int, ...]  #: of each neuron
    refusal: str | None  #: why nothing may grow here

    @property
    def grown(self) -> int:
        """How many neurons have a pseudo-layer."""
        return sum(depth > 0 for depth in self.depths)

    @property
    def by_depth(self) -> dict[int, list[tuple[int, int]]]:
        """The neurons of each depth from 1 on, as runs ``(first, last)``."""
        return {depth: list(runs(self.depths, depth)) for depth in sorted(set(self.depths) - {0})}

    @property
    def paths(self) -> dict[int, str]:
        """The drawing of each depth from 1 on, as SVG path data: a neuron is one unit wide, from its number on."""
        return {
            depth: "".join(f"M{first} 0h{last - first + 1}v1h-{last - first + 1}z" for first, last in found)
            for depth, found in self.by_depth.items()
        }


@dataclass(frozen=True)
class SiteGroup:
    """Sites that stand together, as in ``blocks.3``."""

    path: str
    sites: tuple[SiteDepths, ...]

    @property
    def grown(self) -> int:
        """How many of its neurons have a pseudo-layer."""
        return sum(site.grown for site in self.sites)

    @property
    def neurons(self) -> int:
        """How many neurons it has."""
        return sum(len(site.depths) for site in self.sites)


def blocks(table: Table) -> list[SiteGroup]:
    """Return the model's own sites, block by block, in its order."""
    depths, rows = table.depth_map, {row.site.path: row for row in reversed(table.nodes) if row.site}
    found = groupby(own_sites(table), key=block_of)
    return [SiteGroup(name, tuple(_site(rows[path], name, depths[path]) for path in paths)) for name, paths in found]


def runs(depths: Sequence[int], depth: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of neighbouring neurons of one depth, as pairs of the first and the last.

    Example:
        >>> list(runs([1, 1, 0, 2, 1], 1))
        [(0, 1), (4, 4)]
    """
    place = 0
    for value, group in groupby(depths):
        length = len(list(group))
        if value == depth:
            yield place, place + length - 1
        place += length


def spelled_runs(found: Sequence[tuple[int, int]]) -> str:
    """Spell runs of neurons, as in ``0-1, 4``."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _site(row: NodeRow, block: str, depths: Sequence[int]) -> SiteDepths:
    assert row.site is not None
    label = row.site.path.removeprefix(block).lstrip(".") or row.site.path
    operation = (row.module_type or row.target).rpartition(".")[2]
    return SiteDepths(row.site.path, label, operation, tuple(depths), row.site.refusal)
