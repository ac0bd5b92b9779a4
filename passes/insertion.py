"""What edits inserted between values that stay as they are: what `undo` takes out again."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.fx as fx

from fxgrow.record.provenance import Provenance, ResidualEdge, provenance_of


@dataclass(frozen=True)
class Insertion:
    """One thing that an edit inserted, at one call."""

    path: str  #: module path of the pseudo-layer, the gate or the block
    site: str  #: module path of what it was put behind; empty for a block
    edits: frozenset[int]  #: the edits that made it; several where insertions were merged
    exit: fx.Node  #: whose value took the place of `bypass`
    bypass: fx.Node
    moved: bool = False  #: whether inserting it changed the order of other nodes


def insertions(graph_module: fx.GraphModule) -> Iterator[Insertion]:
    """Yield what was inserted, in the order of the graph; what was copied with a block belongs to the block."""
    entries: dict[str, fx.Node] = {}
    for node in graph_module.graph.nodes:
        made = provenance_of(node) or Provenance()
        if made.block is not None:
            path = made.block.path
            if made.block.entry is not None:
                entries.setdefault(path, node.all_input_nodes[made.block.entry])
            if made.block.exit:
                yield Insertion(path, "", made.edits, node, entries[path])
        elif isinstance(made.part, ResidualEdge):
            bypass = node.args[0]
            assert isinstance(bypass, fx.Node)
            yield Insertion(made.part.path, made.part.site, made.edits, node, bypass, made.part.moved)


def inserted_by(graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
    """Return what one edit of the log inserted and is still there."""
    return tuple(found for found in insertions(graph_module) if edit in found.edits)
