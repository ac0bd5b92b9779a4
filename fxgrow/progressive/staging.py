"""The graph of a stage: the whole model's, without the blocks that are idle."""

from collections.abc import Iterable

import torch.fx as fx

from fxgrow.graph.sharing import share
from fxgrow.progressive.parts import Part


def without(graph_module: fx.GraphModule, idle: Iterable[Part]) -> fx.GraphModule:
    """Return a copy of the graph, of the same parameters, in which blocks pass on what enters them."""
    staged = share(graph_module)
    nodes = list(staged.graph.nodes)
    for part in sorted(idle, key=lambda part: -part.exit):
        inside = {nodes[place] for place in part.nodes}
        entry = nodes[part.entry]
        nodes[part.exit].replace_all_uses_with(entry, delete_user_cb=lambda user, inside=inside: user not in inside)
        for place in reversed(part.nodes):
            staged.graph.erase_node(nodes[place])
    return staged
