"""One node in full: what it computes, from what, with which parameters, and the scores of its neurons."""

from collections.abc import Iterator
from dataclasses import dataclass

from fxgrow.errors import FxgrowError, did_you_mean
from fxgrow.files.table import NodeRow, Table
from fxgrow.inspection.document import Facts, Grid, Line, Part, Tree, parts
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.outline import Item, outline
from fxgrow.inspection.quantities import plain_text, shape_text, short, two_digits
from fxgrow.inspection.summary import with_error
from fxgrow.record.annotations import ScoreAnnotation
from fxgrow.record.evidence import significant

_NEURONS_SHOWN = 10


@dataclass(frozen=True)
class NodeFacts:
    """One node: what is known of it, in words, and as its row of the table."""

    facts: tuple[tuple[str, str], ...]
    row: NodeRow


@dataclass(frozen=True)
class NodeView:
    """What lies at one path of a model."""

    path: str
    nodes: tuple[NodeFacts, ...]
    below: Item | None  #: what lies below the path, where more than one node does


def view_node(model: Model, path: str) -> NodeView:
    """Return one node in full, or the part of the tree that lies at `path`; nothing is executed.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        path: A module path, the name of a parameter, or the name of a node of the graph.

    Raises:
        FxgrowError: If there is nothing of that name.
    """
    table = table_of(model)
    rows = _rows_at(table, path)
    item = next((item for item in outline(table, everything=True).walk() if item.path == path), None)
    if item is not None and not item.children:
        item = None
    if not path or (not rows and item is None):
        fix = f"{did_you_mean(path, _names(table))}`fxgrow inspect` shows the names"
        raise FxgrowError("the model has nothing of this name", where=path or "--node", fix=fix)
    return NodeView(path, tuple(NodeFacts(tuple(_facts(table, row)), row) for row in rows), item)


@parts.register
def _(view: NodeView) -> Iterator[Part]:
    yield Line(plain_text(view.path), "title")
    for node in view.nodes:
        yield Facts(tuple((name, plain_text(value)) for name, value in node.facts))
        scores = node.row.annotation.get("scores")
        if scores:
            yield Line()
            yield Line(_neurons_heading(scores))
            yield _neurons(scores)
    if view.below is not None:
        yield Tree(view.below)


def _rows_at(table: Table, path: str) -> tuple[NodeRow, ...]:
    """Return the nodes at a path: what calls the module or site of that name, or else what stands in its forward."""
    exact = [row for row in table.nodes if path in (row.name, row.target, row.site.path if row.site else "")]
    inside = [row for row in table.nodes if row.path == path and row.op in ("call_function", "call_method")]
    containers = any(row.op == "call_module" and row.target.startswith(f"{path}.") for row in table.nodes)
    return tuple(exact or ([] if containers else inside))


def _names(table: Table) -> list[str]:
    names = [name for row in table.nodes for name in (row.name, row.target, row.path) if name]
    return list(dict.fromkeys([*names, *(row.site.path for row in table.nodes if row.site)]))


def _facts(table: Table, row: NodeRow) -> Iterator[tuple[str, str]]:
    shapes = {other.name: shape_text(other.shape) for other in table.nodes}
    if row.module_type:
        yield "module", f"{row.module_type}({row.extra_repr})"
    yield "node", f"{row.name} = {row.op} {row.target if row.op != 'call_module' else ''}({row.arguments})"
    yield "reads", ", ".join(f"{name} {shapes[name]}".strip() for name in row.inputs) or "nothing"
    yield "read by", ", ".join(other.name for other in table.nodes if row.name in other.inputs) or "nothing"
    if row.shape is not None:
        yield "output", f"{shape_text(row.shape) or 'a scalar'} {row.dtype}"
    for name, shape in _parameters(table, row).items():
        yield "parameter", f"{name} {shape_text(shape)}" + (" (frozen)" if name in table.frozen else "")
    if row.annotation.get("flops"):
        yield "FLOPs", short(row.annotation["flops"])
    yield from _growth(table, row)


def _parameters(table: Table, row: NodeRow) -> dict[str, tuple[int, ...]]:
    """Return the parameters of a module, or those that a function reads."""
    read = [other for other in table.nodes if other.op == "get_attr" and other.name in row.inputs]
    return {name: shape for source in (row, *read) for name, shape in source.parameters.items()}


def _growth(table: Table, row: NodeRow) -> Iterator[tuple[str, str]]:
    site = row.site
    if site is not None:
        verdict = f"no, {site.refusal}" if site.refusal else "yes" if site.by_default else "if included by name"
        yield "can grow", f"{verdict}: {site.neurons} neurons of {site.features} features each"
        yield "half-steps", f"yes: {site.units} hidden units or heads" if site.units else f"no: {site.no_units}"
        dark = [row for row, reached in enumerate(row.annotation.get("scores", {}).get("reached") or ()) if not reached]
        if dark:
            yield "cannot grow", f"no gradient of the loss reaches neurons {', '.join(map(str, dark))}"
        yield "depth", "; ".join(f"{neurons} neurons {depth} deep" for depth, neurons in site.depths)
        for event in table.record.history:
            for grown in event.growths:
                if grown.site == site.path:
                    what = " ".join(part for part in (grown.operator or "", f"{grown.neurons} neurons") if part)
                    yield grown.kind, f"{grown.path}: {what}" if grown.path else what
    made = row.provenance
    if made.part is not None:
        yield "belongs to", f"{made.part.path}, grown at {made.part.site}"
    if made.pass_name:
        yield "made by", f"{made.pass_name}, edit {made.edit}"


def _neurons_heading(scores: ScoreAnnotation) -> str:
    name = " ".join(part for part in (scores["score"], scores["matrix"]) if part)
    shown = min(_NEURONS_SHOWN, len(scores["eigenvalues"]))
    return f"the {shown} of {len(scores['eigenvalues'])} neurons that ask most for growth ({name} score)"


def _neurons(scores: ScoreAnnotation) -> Grid:
    """Return the neurons that ask most for growth, by their held-out score if there is one."""
    sign, held_out, errors = scores.get("sign", -1), scores["held_out"], scores["stderr"]
    asks = significant(scores)
    ranking = scores["eigenvalues"] if held_out is None else held_out
    ranked = sorted(range(len(ranking)), key=lambda neuron: -sign * ranking[neuron])
    headings = ("neuron", "score", "held out", "significant")
    rows = []
    for neuron in ranked[:_NEURONS_SHOWN]:
        cells = ["", ""]
        if held_out is not None and errors is not None:
            value, error = held_out[neuron], errors[neuron]
            cells = [with_error(value, error), "yes" if asks[neuron] else "no"]
        rows.append((str(neuron), two_digits(scores["eigenvalues"][neuron]), *cells))
    return Grid(headings, tuple(rows), right=headings)
