"""The graph of a model: what reads what, as data, in the dot language, and as a drawing."""

from dataclasses import dataclass

from fxgrow.files.table import NodeRow
from fxgrow.inspection.entries import short_name
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.quantities import plain_text, shape_text, two_digits
from fxgrow.inspection.scores import summarise
from fxgrow.inspection.selection import EVERYTHING, Selection, narrow


@dataclass(frozen=True)
class GraphNode:
    """One node of the graph."""

    name: str
    path: str  #: the module that it calls, or in whose forward it stands
    operation: str
    shape: tuple[int, ...] | None
    site: bool  #: whether a pseudo-layer may be attached, or is
    depth: int  #: of a site: the pseudo-layers of its deepest neuron
    grown: str | None  #: the pseudo-layer or block that it is part of
    score: float | None  #: of a site: the score that asks for growth most strongly


@dataclass(frozen=True)
class GraphView:
    """Nodes in the order in which they run, and pairs (source, reader)."""

    name: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[str, str], ...]


def view_graph(model: Model, selection: Selection = EVERYTHING) -> GraphView:
    """Return the graph of a model, or of the part of it that is selected; parameters are left out.

    Raises:
        FxgrowError: If nothing is selected.
    """
    table = narrow(table_of(model), selection)
    rows = [row for row in table.nodes if row.op != "get_attr"]
    shown = {row.name for row in rows}
    edges = tuple((source, row.name) for row in rows for source in row.inputs if source in shown)
    return GraphView(table.name, tuple(_node(row, table.digest) for row in rows), edges)


def _node(row: NodeRow, digest: str) -> GraphNode:
    scores = summarise(row.annotation.get("scores"), digest)
    return GraphNode(
        name=row.name,
        path=row.site.path if row.site else row.path,
        operation=short_name(row.module_type or row.target) if row.op.startswith("call") else row.op,
        shape=row.shape,
        site=row.site is not None,
        depth=row.site.depth if row.site else 0,
        grown=row.provenance.owner or None,
        score=scores.extreme if scores else None,
    )


def words(node: GraphNode) -> str:
    """Return what is written on a node."""
    name = node.path if node.site or node.operation[:1].isupper() else node.name
    score = f"score {two_digits(node.score)}" if node.score is not None else ""
    depth = f"depth {node.depth}" if node.depth else ""
    return plain_text("  ".join(filter(None, (name, node.operation, shape_text(node.shape), depth, score))))


def to_dot(view: GraphView) -> str:
    """Return the graph in the dot language of Graphviz; what grew is green."""
    lines = [f'digraph "{_quoted(view.name)}" {{', "  node [shape=box, fontname=sans-serif];"]
    for node in view.nodes:
        colour = ', color="#0a7d4f", penwidth=2' if node.grown or node.depth else ""
        lines.append(f'  "{_quoted(node.name)}" [label="{_quoted(words(node))}"{colour}];')
    lines += [f'  "{_quoted(source)}" -> "{_quoted(reader)}";' for source, reader in view.edges]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return plain_text(text).replace("\\", "\\\\").replace('"', '\\"')
