"""Biases that forward puts together, taken out of the linear maps that use them."""

import operator

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.execution.shapes import complete_shapes
from fxgrow.primitives.modules import fetch_attribute

_LINEAR = {F.linear, torch.ops.aten.linear.default}


def separate_computed_biases(graph_module: fx.GraphModule) -> None:
    """Rewrite ``F.linear(x, W, b)`` with a computed b as ``F.linear(x, W) + b``.

    BEiT, EVA and Swin v2 join the bias of their qkv map from parts. A site is a linear map whose weight and bias are
    parameters; after this rewrite that holds for these maps too. Results may differ in the last bit.

    Args:
        graph_module: A traced model with shapes.
    """
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target not in _LINEAR:
            continue
        weight = node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
        bias = node.kwargs.get("bias", node.args[2] if len(node.args) > 2 else None)
        if _is_parameter(graph_module, weight) and isinstance(bias, fx.Node) and bias.op != "get_attr":
            _separate(graph_module.graph, node, bias)
    complete_shapes(graph_module)


def _separate(graph: fx.Graph, node: fx.Node, bias: fx.Node) -> None:
    readers = list(node.users)
    node.args = node.args[:2]
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "bias"}
    with graph.inserting_after(node):
        total = graph.call_function(operator.add, (node, bias))
    total.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    for reader in readers:
        reader.replace_input_with(node, total)


def _is_parameter(graph_module: fx.GraphModule, value: object) -> bool:
    return (
        isinstance(value, fx.Node)
        and value.op == "get_attr"
        and isinstance(fetch_attribute(graph_module, str(value.target)), nn.Parameter)
    )
