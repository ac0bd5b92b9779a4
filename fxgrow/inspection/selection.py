"""Choose a part of a model by blocks and sites."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fxgrow.errors import FxgrowError, did_you_mean
from fxgrow.files.table import NodeRow, SiteRow, Table


@dataclass(frozen=True)
class Selection:
    """Which part of a model to look at; all conditions hold together."""

    blocks: tuple[str, ...] = ()  #: paths of modules or patterns of them: only what lies in one of these
    sites: tuple[str, ...] = ()  #: paths of sites or patterns of them: only these, and what grew at them
    grown: bool = False  #: only sites that grew
    can_grow: bool = False  #: only sites that may grow, if only when they are included by name

    @property
    def by_site(self) -> bool:
        """Whether sites are chosen, and not only blocks."""
        return bool(self.sites or self.grown or self.can_grow)


EVERYTHING = Selection()


def narrow(table: Table, selection: Selection) -> Table:
    """Return the table with the nodes of the selected part alone.

    Raises:
        FxgrowError: If nothing is selected.
    """
    if selection == EVERYTHING:
        return table
    rows = [row for row in table.nodes if not selection.blocks or _in_block(row, selection.blocks)]
    if selection.by_site:
        chosen = {row.site.path for row in rows if row.site and _chosen(row.site, selection)}
        concerned = _Concerned(table)
        rows = [row for row in rows if chosen.intersection(concerned.sites_of(row))]
    if not rows:
        raise _nothing(table, selection)
    names = {row.name for row in rows}
    inside = [replace(row, inputs=tuple(name for name in row.inputs if name in names)) for row in rows]
    return replace(table, nodes=tuple(inside))


def _in_block(row: NodeRow, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(_path(row)) for pattern in patterns)


def _path(row: NodeRow) -> str:
    return row.target if row.op == "get_attr" else row.site.path if row.site else row.path


def _prefixes(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _chosen(site: SiteRow, selection: Selection) -> bool:
    named = not selection.sites or any(fnmatchcase(site.path, pattern) for pattern in selection.sites)
    return named and (site.depth > 0 or not selection.grown) and (site.refusal is None or not selection.can_grow)


class _Concerned:
    """Which sites a node belongs to: its own, those that read it as a parameter, and those that it grew at."""

    def __init__(self, table: Table) -> None:
        self.readers: dict[str, set[str]] = {}
        self.hosts: dict[str, str] = {}  # of a site in a pseudo-layer: the site that grew
        for row in table.nodes:
            if row.site is None:
                continue
            for name in row.inputs:
                self.readers.setdefault(name, set()).add(row.site.path)
            if row.provenance.part is not None:
                self.hosts[row.site.path] = row.provenance.part.site

    def sites_of(self, row: NodeRow) -> Iterator[str]:
        if row.site is not None:
            yield row.site.path
        if row.op == "get_attr":
            yield from self.readers.get(row.name, ())
        part = row.provenance.part
        host = part.site if part is not None else None
        while host is not None:
            yield host
            host = self.hosts.get(host)


def _nothing(table: Table, selection: Selection) -> FxgrowError:
    sites = [row.site.path for row in table.nodes if row.site]
    known = {prefix for path in sites for prefix in _prefixes(path)} if selection.blocks else set(sites)
    guess = next(filter(None, (did_you_mean(name, sorted(known)) for name in selection.blocks + selection.sites)), "")
    spelled = [f"--block {name}" for name in selection.blocks] + [f"--site {name}" for name in selection.sites]
    spelled += ["--grown"] * selection.grown + ["--can-grow"] * selection.can_grow
    return FxgrowError(
        "nothing of the model is selected", where=" ".join(spelled), fix=f"{guess}`fxgrow inspect` shows the names"
    )
