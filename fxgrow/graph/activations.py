"""Elementwise activations: which nodes are one, and the function that they apply."""

from collections.abc import Callable

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.primitives.activations import EvenGELU, ResidualGELU

Elementwise = Callable[[Tensor], Tensor]

_MODULES: tuple[type[nn.Module], ...] = (
    nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, EvenGELU, ResidualGELU,
)  # fmt: skip
_FUNCTIONS: set[Callable[..., Tensor]] = {
    F.gelu, F.relu, F.relu6, F.leaky_relu, F.silu, F.mish, F.elu, F.celu, F.selu, F.softplus, F.softsign, F.sigmoid,
    F.logsigmoid, F.tanh, F.hardswish, F.hardsigmoid, F.hardtanh, torch.relu, torch.sigmoid, torch.tanh, torch.sin,
    torch.selu, torch.celu, torch.erf,
}  # fmt: skip
#: torch does not differentiate the backward of hardsigmoid; this is the same function
_TWICE_DIFFERENTIABLE: dict[object, Elementwise] = {
    kind: lambda x: F.relu6(x + 3) / 6 for kind in (nn.Hardsigmoid, F.hardsigmoid, torch.ops.aten.hardsigmoid.default)
}
_METHODS = {"relu", "sigmoid", "tanh", "sin", "erf"}
#: timm's activations take part by the name of their class: they are nn.Modules that apply one function elementwise.
_TIMM_MODULE = "timm.layers.activations"


def activation_after(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the elementwise activation that alone reads `node`; None where there is none, or where others read too."""
    if len(node.users) != 1:
        return None
    (reader,) = node.users
    return reader if elementwise(graph_module, reader) is not None else None


def elementwise(graph_module: fx.GraphModule, node: fx.Node) -> Elementwise | None:
    """Return the function of one tensor that an activation node applies; None for any other node.

    The function never works in place, whatever the node's flags say.
    """
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return _out_of_place(module) if _is_activation(module) else None
    if len(node.all_input_nodes) != 1 or not node.args or node.args[0] is not node.all_input_nodes[0]:
        return None
    rest, keywords = node.args[1:], {name: value for name, value in node.kwargs.items() if name != "inplace"}
    if node.op == "call_function" and node.target in _FUNCTIONS:
        function: Callable[..., Tensor] = _TWICE_DIFFERENTIABLE.get(node.target, node.target)
        return lambda x: function(x, *rest, **keywords)
    if node.op == "call_method" and node.target in _METHODS:
        method = str(node.target)
        return lambda x: getattr(x, method)(*rest, **keywords)
    return None


def twice_differentiable(graph_module: fx.GraphModule, node: fx.Node) -> Elementwise | None:
    """Return a function that torch differentiates twice in place of a node's own, of which it does not; else None."""
    if node.op == "call_module":
        return _TWICE_DIFFERENTIABLE.get(type(graph_module.get_submodule(str(node.target))))
    return _TWICE_DIFFERENTIABLE.get(node.target)


def _is_activation(module: nn.Module) -> bool:
    # exactly these classes: a subclass may do something else (RReLU is a random Hardtanh, PReLU has parameters)
    return type(module) in _MODULES or (
        type(module).__module__.startswith(_TIMM_MODULE)
        and not list(module.parameters())
        and not list(module.children())
    )


def _out_of_place(module: nn.Module) -> Elementwise:
    if type(module) in _TWICE_DIFFERENTIABLE:
        return _TWICE_DIFFERENTIABLE[type(module)]
    if getattr(module, "inplace", False) is not True:
        return module
    return lambda x: module(x.clone())
