"""Where a training fell apart: the first module whose output is not finite."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.execution.preservation import preserved
from fxgrow.execution.structures import flatten


def describe_divergence(graph_module: fx.GraphModule, inputs: Any) -> str:
    """Run a batch again and say where its values stop being finite. The model is left as it was.

    Args:
        graph_module: The graph.
        inputs: A tensor, a tuple of inputs, or a dict by keyword.
    """
    signature = inspect.signature(graph_module.forward)
    if isinstance(inputs, Mapping):
        bound = signature.bind(**inputs)
    else:
        bound = signature.bind(*(inputs if isinstance(inputs, tuple | list) else (inputs,)))
    bound.apply_defaults()
    with preserved(graph_module), torch.no_grad():
        finder = _Finder(graph_module)
        finder.run(*bound.args)
    if finder.found is None:
        return "all outputs of the model are finite, and the loss is not"
    return _describe(graph_module, finder.found)


class _Finder(fx.Interpreter):
    """Runs a graph and takes note of the first node whose value is not finite."""

    found: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self.found is None and not _finite(value):
            self.found = n
        return value


def _finite(value: Any) -> bool:
    tensors = (tensor for _, tensor in flatten(value) if isinstance(tensor, torch.Tensor))
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def _describe(graph_module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"the input {node.target} is not finite"
    if node.op == "get_attr":
        return f"{node.target} is not finite"
    if node.op != "call_module":
        stack = list(node.meta.get("nn_module_stack", {}).values())
        inside = f" in {stack[-1][0]}" if stack and stack[-1][0] else ""
        return f"the first value that is not finite is that of {node.name}{inside}"
    module: nn.Module = graph_module.get_submodule(str(node.target))
    weights = "" if all(_finite(parameter) for parameter in module.parameters()) else ", whose weights are not either"
    return f"the first output that is not finite is that of {node.target}{weights}"
