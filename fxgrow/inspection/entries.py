"""Gather the rows of a table into the things that people know: modules, parameters, residual edges."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fxgrow.files.table import NodeRow, SiteRow, Table
from fxgrow.inspection.scores import ScoreSummary, summarise
from fxgrow.record.provenance import ResidualEdge

Kind = Literal["container", "module", "function", "parameter", "pseudo-layer", "residual edge", "alike"]

#: Modules that hold nothing and, when growth is what one looks for, say nothing.
_SILENT = {
    *("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath", "PatchDropout"),
    "ModeValue",
}
RESIDUAL_EDGE = "residual edge"


@dataclass(frozen=True)
class Entry:
    """A thing at a module path."""

    path: str
    kind: Kind
    operation: str
    shape: tuple[int, ...] | None
    parameters: Mapping[str, int] = field(default_factory=dict)  #: sizes of its parameters by name
    site: SiteRow | None = None
    scores: ScoreSummary | None = None
    grown_rows: tuple[int, int] | None = None  #: on a residual edge: rows served, and of how many
    whole: str = ""  #: why nothing can grow in what holds these parameters


def entries_of(table: Table, *, everything: bool = False) -> dict[str, Entry]:
    """Return the entries of a table by path, in graph order; a reused module is one entry.

    Args:
        table: What to read.
        everything: Also functions, and modules that hold no parameters and only pass values on.
    """
    entries: dict[str, Entry] = {}
    for entry in _Gatherer(table, everything).entries():
        entries.setdefault(entry.path, entry)
    return entries


def short_name(qualified: str) -> str:
    """Return the last part of an importable name, as in ``Linear`` or ``layer_norm``."""
    return qualified.rpartition(".")[2]


class _Gatherer:
    def __init__(self, table: Table, everything: bool) -> None:
        self.table, self.everything = table, everything
        self.rows = {row.name: row for row in table.nodes}
        self.neurons = {row.site.path: row.site.neurons for row in table.nodes if row.site}
        called = [row.target for row in table.nodes if row.op == "call_module"]
        self.containers = {prefix for path in called for prefix in _prefixes(path)}
        self.functions: dict[str, list[NodeRow]] = defaultdict(list)
        self.held: dict[str, list[NodeRow]] = defaultdict(list)  # the parameters of an inlined module, by its path
        self.readers: dict[str, list[NodeRow]] = defaultdict(list)
        for row in table.nodes:
            if _is_function(row):
                self.functions[row.path].append(row)
            if row.op == "get_attr":
                self.held[row.path].append(row)
            for name in row.inputs:
                self.readers[name].append(row)

    def entries(self) -> Iterator[Entry]:
        for row in self.table.nodes:
            if isinstance(row.provenance.part, ResidualEdge):
                yield self._residual_edge(row, row.provenance.part)
            elif row.op == "call_module":
                if row.parameters or self.everything or short_name(row.module_type) not in _SILENT:
                    yield self._entry(row, row.target, "module", short_name(row.module_type), _sizes(row))
            elif row.op == "get_attr" and row.parameters:
                yield from self._reader_of(row)
            elif row.site is not None:
                yield self._entry(row, row.site.path, "module", short_name(row.target), self._read_by(row))
            elif self.everything and _is_function(row) and row.path in {"", *self.containers}:
                path = f"{row.path}.{row.name}".lstrip(".")
                yield self._entry(row, path, "function", short_name(row.target), {})

    def _reader_of(self, row: NodeRow) -> Iterator[Entry]:
        """Yield what a parameter belongs to: the inlined module that reads it, or the parameter itself."""
        readers = self.readers[row.name]
        if any(reader.site for reader in readers):
            return  # the functional site has it
        if row.path and row.path not in self.containers and any(reader.path == row.path for reader in readers):
            last = self.functions[row.path][-1]
            sizes = {name: size for other in self.held[row.path] for name, size in _sizes(other).items()}
            yield replace(self._entry(last, row.path, "module", short_name(last.target), sizes), whole=row.whole)
        else:
            shape = row.parameters[row.target]
            yield Entry(row.target, "parameter", "parameter", shape, _sizes(row), whole=row.whole)

    def _read_by(self, row: NodeRow) -> dict[str, int]:
        """Return the sizes of the parameters that a function reads."""
        return {name: size for source in row.inputs for name, size in _sizes(self.rows[source]).items()}

    def _residual_edge(self, row: NodeRow, edge: ResidualEdge) -> Entry:
        rows = len(edge.rows or ()), self.neurons.get(edge.site, 0)
        path = f"{edge.path}.{RESIDUAL_EDGE}"
        return Entry(path, "residual edge", short_name(row.target), row.shape, grown_rows=rows)

    def _entry(self, row: NodeRow, path: str, kind: Kind, operation: str, parameters: Mapping[str, int]) -> Entry:
        scores = summarise(row.annotation.get("scores"), self.table.digest)
        return Entry(path, kind, operation, row.shape, parameters, row.site, scores, whole=row.whole)


def _is_function(row: NodeRow) -> bool:
    return row.op in ("call_function", "call_method") and not isinstance(row.provenance.part, ResidualEdge)


def _prefixes(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _sizes(row: NodeRow) -> dict[str, int]:
    if row.op not in ("get_attr", "call_module"):
        return {}
    return {name: math.prod(shape) for name, shape in row.parameters.items()}
