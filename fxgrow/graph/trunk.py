"""The residual branches of a block, and what must be zero for them to add nothing."""

import operator

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.execution.inputs import device_of
from fxgrow.graph.activations import pointwise
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import operations_of
from fxgrow.graph.regions import Region
from fxgrow.graph.sites import find_sites
from fxgrow.primitives.residual import add_rows

_ADDITIONS = {operator.add, operator.iadd, torch.add, torch.ops.aten.add.Tensor}
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_NORM_FUNCTIONS = {F.layer_norm: ("weight", 2), F.group_norm: ("weight", 2), F.rms_norm: ("weight", 2)}
#: operations that give zero where their first tensor is zero, and pass gradients on there
_PRODUCTS = {operator.mul, operator.imul, operator.truediv, operator.neg, torch.mul, torch.div}
#: what moves numbers, and zeros with them, into new memory
_MOVES = {"roll", torch.roll, torch.ops.aten.roll.default}
#: f(f(x)) = f(x): an activation behind the sum does not stand in the way of the identity
_IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity)
_IDEMPOTENT_FUNCTIONS = {F.relu, F.relu6, F.hardtanh, torch.relu}


def residual_branches(graph_module: fx.GraphModule, region: Region) -> list[fx.Node] | None:
    """Return the values that a block adds to its entry, last first; None where its exit is not such a sum.

    An idempotent activation behind the sum is passed over where the entry is a value of the same activation, as in
    ``relu(x + f(x))`` with ``x = relu(...)``: then the block is the identity when the branches are zero.
    """
    value = region.exit
    if _same_idempotent(graph_module, value, region.entry):
        value = value.all_input_nodes[0]
    return _branches(graph_module, value, region.entry)


def zeros_of(graph_module: fx.GraphModule, value: fx.Node, block: str) -> list[str] | None:
    """Return the parameters of a block that make `value` exactly zero, when they are; None where there are none such.

    They belong to the last linear map or norm on the way to the value, so that gradients reach them, and all of them
    lie under the path `block`: what lies outside is not the block's to zero.
    """
    weights = {call: site for site in find_sites(graph_module).values() for call in site.calls}
    if value in weights:
        own = [name for name in (weights[value].weight, weights[value].bias) if name]
    else:
        own = _norm_parameters(graph_module, value)
    if own:
        return own if all(name.startswith(f"{block}.") for name in own) else None
    if value.op == "call_function" and (value.target in _ADDITIONS or value.target is add_rows):
        found = [zeros_of(graph_module, part, block) for part in value.args[:2] if isinstance(part, fx.Node)]
        return [name for names in found if names for name in names] if len(found) == 2 and all(found) else None
    if not _keeps_zero(graph_module, value) or not value.args or not isinstance(value.args[0], fx.Node):
        return None
    for part in value.args if value.target in _PRODUCTS else value.args[:1]:
        if isinstance(part, fx.Node) and (names := zeros_of(graph_module, part, block)):
            return names
        if value.target is operator.truediv:
            break  # only the numerator
    return None


def _branches(graph_module: fx.GraphModule, value: fx.Node, entry: fx.Node) -> list[fx.Node] | None:
    if value is entry:
        return []
    if value.op == "call_module" and isinstance(graph_module.get_submodule(str(value.target)), nn.Identity):
        return _branches(graph_module, value.all_input_nodes[0], entry)
    if value.op != "call_function" or len(value.args) < 2 or value.kwargs:
        return None
    first, second = value.args[:2]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    if value.target in _ADDITIONS and shape_of(first) == shape_of(second):
        ends = [(first, second), (second, first)]
    elif value.target is add_rows:
        ends = [(first, second)]
    else:
        return None
    for trunk, branch in ends:
        rest = _branches(graph_module, trunk, entry)
        if rest is not None:
            return [branch, *rest]
    return None


def _same_idempotent(graph_module: fx.GraphModule, value: fx.Node, entry: fx.Node) -> bool:
    kinds = [_idempotent(graph_module, node) for node in (value, entry)]
    return kinds[0] is not None and kinds[0] == kinds[1]


def _idempotent(graph_module: fx.GraphModule, node: fx.Node) -> str | None:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return f"{type(module).__name__}({module.extra_repr()})" if type(module) in _IDEMPOTENT else None
    if node.op == "call_function" and node.target in _IDEMPOTENT_FUNCTIONS:
        return f"{node.target.__name__}{node.args[1:]}"
    return None


def _norm_parameters(graph_module: fx.GraphModule, node: fx.Node) -> list[str]:
    """Return weight and bias of a norm with a weight; nothing for any other node."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if not isinstance(module, _NORMS):
            return []
        names = [f"{node.target}.{name}" for name, value in module._parameters.items() if value is not None]
        return names if getattr(module, "weight", None) is not None else []
    if node.op != "call_function" or node.target not in _NORM_FUNCTIONS:
        return []
    keyword, place = _NORM_FUNCTIONS[node.target]
    weight = node.kwargs.get(keyword, node.args[place] if len(node.args) > place else None)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return []
    read = [*node.args, *node.kwargs.values()]
    return [str(part.target) for part in read if isinstance(part, fx.Node) and part.op == "get_attr"]


def _keeps_zero(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the value is zero where the first argument is, and passes gradients on there."""
    if not node.op.startswith("call") or not node.args:
        return False
    if node.target in _PRODUCTS or node.target in _MOVES:
        return True
    found = operations_of(graph_module)[node]
    if found.known and not found.writes and node.args[0] in operations_of(graph_module).shown(node):
        return True  # a view, or what only training lets through in part, as dropout and stochastic depth
    function = pointwise(graph_module, node)
    if function is None:
        return False
    zero = torch.zeros([1] * len(shape_of(node) or (1,)), requires_grad=True, device=device_of(graph_module))
    with torch.enable_grad():
        value = function(zero)
        slope = torch.autograd.grad(value.sum(), zero, materialize_grads=True)[0] if value.requires_grad else zero
    return not value.any() and bool(slope.all())
