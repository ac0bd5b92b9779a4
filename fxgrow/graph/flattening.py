"""A GraphModule as plain objects, to be copied and pickled whole.

torch.fx pickles a GraphModule as code and traces that again: functions that a graph calls are traced into, and what
nodes carry (annotations, provenance, shapes, the modules they come from) is lost.
"""

from dataclasses import dataclass
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.graph.state import adopt_state

#: what nodes carry beyond the code
_NOTES = ("custom", "nn_module_stack", "stack_trace", "tensor_meta")


@dataclass(frozen=True)
class _Place:
    """Stands for the value of the node at an index."""

    index: int


@dataclass(frozen=True)
class _Step:
    """One node."""

    op: str
    name: str
    target: Any
    args: Any
    kwargs: Any
    notes: dict[str, Any]


@dataclass(frozen=True)
class FlatGraph:
    """All of a GraphModule: what it holds, what it computes, what it remembers."""

    name: str
    holder: nn.Module  #: has the modules, the parameters and the buffers of the GraphModule
    steps: tuple[_Step, ...]
    meta: dict[str, Any]
    training: bool


def flatten_graph(graph_module: fx.GraphModule) -> FlatGraph:
    """Return the parts of a GraphModule, which it shares with the result."""
    holder = nn.Module()
    holder._modules, holder._parameters = graph_module._modules, graph_module._parameters
    holder._buffers = graph_module._buffers
    holder._non_persistent_buffers_set = graph_module._non_persistent_buffers_set
    places: dict[fx.Node, Any] = {node: _Place(index) for index, node in enumerate(graph_module.graph.nodes)}
    steps = tuple(
        _Step(
            op=node.op,
            name=node.name,
            target=node.target,
            args=fx.map_arg(node.args, places.__getitem__),
            kwargs=fx.map_arg(node.kwargs, places.__getitem__),
            notes={key: node.meta[key] for key in _NOTES if key in node.meta},
        )
        for node in places
    )
    return FlatGraph(type(graph_module).__name__, holder, steps, dict(graph_module.meta), graph_module.training)


def build_graph(flat: FlatGraph) -> fx.GraphModule:
    """Return the GraphModule of which these are the parts."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for step in flat.steps:
        args, kwargs = _with_nodes(step.args, nodes), _with_nodes(step.kwargs, nodes)
        nodes.append(graph.create_node(step.op, step.target, args, kwargs, name=step.name))
        nodes[-1].meta.update(step.notes)
    graph_module = fx.GraphModule(flat.holder, graph, flat.name)
    adopt_state(flat.holder, graph_module)
    graph_module.meta = flat.meta
    graph_module.training = flat.training
    return graph_module


def _with_nodes(value: Any, nodes: list[fx.Node]) -> Any:
    """Put nodes back in their places, in what torch.fx takes for arguments."""
    if isinstance(value, _Place):
        return nodes[value.index]
    if isinstance(value, tuple | list):
        made = [_with_nodes(item, nodes) for item in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if isinstance(value, dict):
        return {key: _with_nodes(item, nodes) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_with_nodes(part, nodes) for part in (value.start, value.stop, value.step)))
    return value
