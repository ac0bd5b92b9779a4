"""torch.no_grad inside a forward, kept as operations: a graph records no such context."""

import torch.fx as fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.execution.shapes import complete_shapes
from fxgrow.tracing.tracer import NO_GRAD


def detach_without_gradient(graph_module: fx.GraphModule) -> None:
    """Detach each value that was computed under torch.no_grad where an operation outside of it reads the value.

    Args:
        graph_module: A traced model with shapes, whose nodes carry the mark `NO_GRAD`.
    """
    for node in list(graph_module.graph.nodes):
        if not node.meta.pop(NO_GRAD, False):
            continue
        outside = [user for user in node.users if not user.meta.get(NO_GRAD)]
        if isinstance(node.meta.get("tensor_meta"), TensorMetadata):
            _detach(graph_module.graph, node, outside)
        else:  # a tuple of tensors: what is taken out of it has no gradient either
            for user in outside:
                user.meta[NO_GRAD] = user.op != "output"
    complete_shapes(graph_module)


def _detach(graph: fx.Graph, node: fx.Node, users: list[fx.Node]) -> None:
    if not users:
        return
    with graph.inserting_after(node):
        detached = graph.call_method("detach", (node,))
    detached.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    for user in users:
        user.replace_input_with(node, detached)
