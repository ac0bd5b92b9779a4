"""What differs between a graph and the one that a file describes, in words."""

from collections.abc import Sequence
from itertools import zip_longest

import torch.fx as fx

from fxgrow.files.describing import describe
from fxgrow.files.table import NodeRow, Table


def difference(graph_module: fx.GraphModule, table: Table) -> str:
    """Return the first thing in which `graph_module` is not the graph of `table`; what edits inserted does not count.

    Empty where nothing differs that a table shows.

    Example:
        ``blocks.0.norm1 is LayerNorm((384,), eps=0.001) in the file, and LayerNorm((384,), eps=1e-06) here``
    """
    for theirs, ours in zip_longest(_of_base(table.nodes), _of_base(describe(graph_module).nodes)):
        if theirs is None or ours is None:
            extra, place = (theirs, "the file") if theirs is not None else (ours, "this model")
            return f"only {place} has {_place(extra)}"
        if _place(theirs) != _place(ours):
            return f"the file has {_place(theirs)} where this model has {_place(ours)}"
        if _options(theirs) != _options(ours):
            return f"{_place(theirs)} is {_options(theirs)} in the file, and {_options(ours)} here"
    return ""


def _of_base(rows: Sequence[NodeRow]) -> list[NodeRow]:
    return [row for row in rows if not row.provenance.pass_name]


def _place(row: NodeRow) -> str:
    """Return what a node calls or reads, and where."""
    if row.op in ("call_module", "get_attr", "placeholder"):
        return row.target
    return f"{row.target or row.op} in {row.path}" if row.path else row.target or row.op


def _options(row: NodeRow) -> str:
    """Return a module with its options, or the shapes of the parameters that are read."""
    shapes = ", ".join(f"{name.rpartition('.')[2]} {shape}" for name, shape in row.parameters.items())
    if row.op == "call_module":
        kind = f"{row.module_type.rpartition('.')[2]}({row.extra_repr})"
        return f"{kind} with {shapes}" if shapes else kind
    return shapes
