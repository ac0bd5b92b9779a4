"""The graph of a stage: the whole model's, without the blocks that are idle, on a part of the widths."""

from collections.abc import Iterable

import torch.fx as fx

from fxgrow.execution.shapes import complete_shapes
from fxgrow.graph.sharing import share
from fxgrow.progressive.narrowing import narrow, plan_width
from fxgrow.progressive.parts import Part


def stage_graph(graph_module: fx.GraphModule, idle: Iterable[Part], width: float) -> fx.GraphModule:
    """Return a copy of the graph, of the same parameters, in which idle blocks pass on what enters them.

    Args:
        graph_module: The graph of the whole model.
        idle: The blocks that do not run.
        width: The share of hidden units and heads that run.

    Raises:
        PassError: If no width can change.
    """
    staged = share(graph_module)
    nodes = list(staged.graph.nodes)
    if width < 1:
        narrow(staged, plan_width(staged, width))
    for part in sorted(idle, key=lambda part: -part.exit):
        _leave_out(part, nodes)
    if width < 1:
        complete_shapes(staged)
    return staged


def _leave_out(part: Part, nodes: list[fx.Node]) -> None:
    inside = {nodes[place] for place in part.nodes}
    known = set(nodes)
    inside |= {user for node in inside for user in node.users if user not in known}  # which run on a part of the width
    readers = [user for user in nodes[part.exit].users if user not in inside]
    for reader in readers:
        reader.replace_input_with(nodes[part.exit], nodes[part.entry])
    for node in sorted(inside, reverse=True):
        node.graph.erase_node(node)
