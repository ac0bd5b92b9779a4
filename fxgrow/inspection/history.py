"""How a model grew, and what became of it from one file to another."""

from collections.abc import Iterator
from dataclasses import dataclass

from fxgrow.files.table import NodeRow, Table
from fxgrow.inspection.document import Grid, Line, Part, parts
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.outline import pseudo_layer_sites
from fxgrow.inspection.quantities import count, plain_text, shape_text
from fxgrow.inspection.summary import event_grid, when, with_error
from fxgrow.record.record import WAKING, Growth, GrowthEvent


@dataclass(frozen=True)
class HistoryView:
    """The growth events of a model."""

    history: tuple[GrowthEvent, ...]
    edits: tuple[str, ...]  #: the edit log: passes as text


@dataclass(frozen=True)
class ModelSize:
    """How big a model is."""

    name: str
    parameters: int
    flops: int
    nodes: int


@dataclass(frozen=True)
class DepthChange:
    """A site whose neurons became deeper, or less deep."""

    site: str
    before: int  #: pseudo-layers of its deepest neuron
    after: int


@dataclass(frozen=True)
class NodeChange:
    """A module or a parameter that is new, gone, or another than before, and not part of what the events grew."""

    path: str
    before: str | None  #: None where it is new
    after: str | None  #: None where it is gone


@dataclass(frozen=True)
class DiffView:
    """What became of a model from one file to another."""

    before: ModelSize
    after: ModelSize
    descends: bool  #: whether the second file goes on from where the first one stood
    events: tuple[GrowthEvent, ...]  #: those that only the second file has
    edits: tuple[str, ...]  #: the same of the edit log
    depths: tuple[DepthChange, ...]
    changes: tuple[NodeChange, ...]


def view_history(model: Model) -> HistoryView:
    """Return the growth events of a model: where it grew, by how much, on which evidence."""
    record = table_of(model).record
    return HistoryView(record.history, record.edits)


def view_diff(before: Model, after: Model) -> DiffView:
    """Return what grew between two states of a model, where, and on which evidence.

    Args:
        before: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        after: A later state of it, or any other model.
    """
    first, second = table_of(before), table_of(after)
    edits = first.record.edits
    descends = second.record.edits[: len(edits)] == edits and first.digest in (second.record.base_digest, second.digest)
    descends = descends or (bool(edits) and second.record.edits[: len(edits)] == edits)
    known = len(first.record.history) if descends else 0
    return DiffView(
        before=_size(first),
        after=_size(second),
        descends=descends,
        events=second.record.history[known:],
        edits=second.record.edits[len(edits) if descends else 0 :],
        depths=tuple(_depth_changes(first, second)),
        changes=tuple(_node_changes(first, second)),
    )


def _size(table: Table) -> ModelSize:
    return ModelSize(table.name, table.parameters, table.flops, len(table.nodes))


def _depth_changes(before: Table, after: Table) -> Iterator[DepthChange]:
    depths = {row.site.path: row.site.depth for row in before.nodes if row.site}
    later = {row.site.path: row.site.depth for row in after.nodes if row.site}
    yield from (DepthChange(path, depths[path], d) for path, d in later.items() if path in depths and d != depths[path])


def _node_changes(before: Table, after: Table) -> Iterator[NodeChange]:
    grown = {*pseudo_layer_sites(before), *pseudo_layer_sites(after)}
    first, second = _described(before, grown), _described(after, grown)
    for path in dict.fromkeys([*first, *second]):
        if first.get(path) != second.get(path):
            yield NodeChange(path, first.get(path), second.get(path))


def _described(table: Table, grown: set[str]) -> dict[str, str]:
    """Return modules and parameters in words, by path, without what lies in pseudo-layers."""
    rows = [row for row in table.nodes if row.op in ("call_module", "get_attr")]
    made = {row.name: row.provenance.part for row in rows}
    return {
        row.target: _words(row)
        for row in rows
        if made[row.name] is None and not any(row.target.startswith(f"{path}.") for path in grown if path in row.target)
    }


def _words(row: NodeRow) -> str:
    if row.op == "get_attr":
        return shape_text(row.parameters.get(row.target)) or "a tensor"
    return f"{row.module_type.rpartition('.')[2]}({row.extra_repr})"


@parts.register
def _(view: HistoryView) -> Iterator[Part]:
    if not view.history:
        yield Line("nothing grew yet")
        return
    yield event_grid(view.history)
    for number, event in enumerate(view.history, start=1):
        yield Line()
        yield from _event_parts(f"growth {number}", event)


@parts.register
def _(view: DiffView) -> Iterator[Part]:
    first, second = view.before, view.after
    headings = ("", "before", "after")
    numbers = (("parameters", first.parameters, second.parameters), ("FLOPs", first.flops, second.flops))
    rows = [(name, count(one), count(other)) for name, one, other in (*numbers, ("nodes", first.nodes, second.nodes))]
    yield Grid(headings, tuple(rows), right=("before", "after"))
    if not view.descends:
        yield Line("the second model does not go on from the first: all its events are shown", "warning")
    for number, event in enumerate(view.events, start=1):
        yield Line()
        yield from _event_parts(f"growth {number}", event)
    if view.depths:
        yield Line()
        cells = tuple((plain_text(change.site), str(change.before), str(change.after)) for change in view.depths)
        yield Grid(("site", "depth before", "after"), cells, right=("depth before", "after"))
    if view.changes:
        yield Line()
        words = tuple(tuple(plain_text(w or "-") for w in (c.path, c.before, c.after)) for c in view.changes)
        yield Grid(("module or parameter", "before", "after"), words)
    if view.before == view.after and not (view.events or view.depths or view.changes):
        yield Line("nothing changed but, perhaps, weights")


def _event_parts(name: str, event: GrowthEvent) -> Iterator[Part]:
    budget = f", budget {count(event.budget)}" if event.budget is not None else ""
    allocation = f", allocation {plain_text(event.allocation)}" if event.allocation else ""
    sizes = f"{count(event.parameters_before)} → {count(event.parameters_after)} parameters"
    yield Line(f"{name}{plain_text(when(event.context))}", "title", f"{sizes}{budget}{allocation}")
    headings = ("site", "what", "neurons", "parameters", "score", "held out")
    yield Grid(headings, tuple(map(_growth, event.growths)), right=("neurons", "parameters", "held out"))


def _growth(growth: Growth) -> tuple[str, ...]:
    evidence = growth.evidence
    held_out = ""
    if evidence is not None and evidence.held_out is not None and evidence.stderr is not None:
        held_out = with_error(evidence.held_out, evidence.stderr)
    score = evidence.score if evidence else "by schedule" if growth.kind == WAKING else "by name"
    what = (growth.operator or growth.kind) + (f", from {growth.site}" if growth.place != growth.site else "")
    cells = (growth.place, what, str(growth.neurons or ""), count(growth.parameters), score, held_out)
    return tuple(map(plain_text, cells))
