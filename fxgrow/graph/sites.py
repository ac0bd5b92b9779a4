"""Sites: the linear maps of a graph at which a pseudo-layer may be attached, and why the others may not."""

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.execution.shapes import is_plain
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.facts import kept

_MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_PLAIN_FORWARDS = {kind.forward for kind in _MODULES}
_aten = torch.ops.aten
_LINEAR_FUNCTIONS: set[Callable[..., Tensor]] = {F.linear, _aten.linear.default}
#: matrix products whose second factor is the weight, kept as (features, neurons); addmm takes the bias first
_ADDMM_FUNCTIONS: set[Callable[..., Tensor]] = {torch.addmm, _aten.addmm.default}
_MATMUL_FUNCTIONS: set[Callable[..., Tensor]] = {
    torch.matmul,
    torch.mm,
    operator.matmul,
    _aten.matmul.default,
    _aten.mm.default,
}
_CONVOLUTION_FUNCTIONS: dict[object, int] = {
    F.conv1d: 1,
    F.conv2d: 2,
    F.conv3d: 3,
    _aten.conv1d.default: 1,
    _aten.conv2d.default: 2,
    _aten.conv3d.default: 3,
}


@dataclass(frozen=True)
class Site:
    """A linear map ``O = W x + b`` in the graph. A module that is called twice is one site with two calls."""

    path: str  #: module path, as in ``"blocks.0.mlp.fc1"``; for a functional call, the path of its weight
    map: LinearMap
    calls: tuple[fx.Node, ...]
    weight: str  #: the weight's parameter name
    bias: str | None  #: the bias's parameter name
    refusal: str | None = None  #: why nothing may grow here; None for a site that may grow

    @property
    def neurons(self) -> int:
        """The number of output rows."""
        return self.map.neurons

    @property
    def features(self) -> int:
        """The number of inputs of one neuron."""
        return self.map.features

    def rows(self, graph_module: fx.GraphModule) -> Tensor:
        """Return the weight as rows ``(neurons, features)``."""
        return self.map.to_rows(graph_module.get_parameter(self.weight))


def site_input(call: fx.Node) -> fx.Node:
    """Return the value that a call of a site reads."""
    if call.op == "call_function" and (call.target in _ADDMM_FUNCTIONS or call.target in _MATMUL_FUNCTIONS):
        value = _factors(call)["input"]
    else:
        value = call.args[0] if call.args else call.kwargs["input"]
    assert isinstance(value, fx.Node)
    return value


def weight_of(call: fx.Node) -> fx.Node | None:
    """Return what a call of a linear function takes for its weight, whatever that is; None for any other node."""
    if call.target in _ADDMM_FUNCTIONS or call.target in _MATMUL_FUNCTIONS:
        weight = _factors(call)["weight"]
    elif call.target in _LINEAR_FUNCTIONS or call.target in _CONVOLUTION_FUNCTIONS:
        weight = call.args[1] if len(call.args) > 1 else call.kwargs["weight"]
    else:
        return None
    return weight if isinstance(weight, fx.Node) else None


def computed_from(weight: fx.Node | None) -> list[fx.Node]:
    """Return the attributes from which a weight is computed; none where it depends on the inputs, sizes aside."""
    seen: dict[fx.Node, None] = {}
    pending = [] if weight is None else [weight]
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return []
        if node not in seen:
            seen[node] = None
            pending += [value for value in node.all_input_nodes if not is_plain(value)]
    return [node for node in seen if node.op == "get_attr"]


@kept()
def find_sites(graph_module: fx.GraphModule) -> Mapping[str, Site]:
    """Return every linear map of the graph with weights of its own, by module path, in graph order.

    A site that may not grow has a `refusal`; what is no site at all (a norm, an opaque leaf, a convolution whose weight
    is computed) does not appear.

    Raises:
        TraceError: If `graph_module` is not traced.
    """
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    found: dict[str, tuple[LinearMap, str, str | None]] = {}
    for node in graph_module.graph.nodes:
        recognised = _recognise_module(graph_module, node) or _recognise_function(graph_module, node)
        if recognised is not None:
            path, description = recognised
            found.setdefault(path, description)
            calls[path].append(node)
    owners = _owners_by_parameter(graph_module, found)
    sites = {
        path: Site(path, linear, tuple(calls[path]), weight, bias, _refusal(graph_module, calls[path], weight, owners))
        for path, (linear, weight, bias) in found.items()
    }
    return MappingProxyType(sites)


_Recognised = tuple[str, tuple[LinearMap, str, str | None]]


def _recognise_module(graph_module: fx.GraphModule, node: fx.Node) -> _Recognised | None:
    if node.op != "call_module":
        return None
    path = str(node.target)
    module = graph_module.get_submodule(path)
    if not isinstance(module, _MODULES) or type(module).forward not in _PLAIN_FORWARDS:
        return None
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return None  # a parametrised or lazily built weight is computed, not held
    bias = f"{path}.bias" if module.bias is not None else None
    return path, (LinearMap.of_module(module), f"{path}.weight", bias)


def _recognise_function(graph_module: fx.GraphModule, node: fx.Node) -> _Recognised | None:
    if node.op != "call_function":
        return None
    if node.target in _ADDMM_FUNCTIONS or node.target in _MATMUL_FUNCTIONS:
        return _recognise_product(graph_module, node)
    spatial = 0 if node.target in _LINEAR_FUNCTIONS else _CONVOLUTION_FUNCTIONS.get(node.target)
    if spatial is None:
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    weight, bias = arguments["weight"], arguments.get("bias")
    if not _is_parameter(graph_module, weight) or not (bias is None or _is_parameter(graph_module, bias)):
        return None
    assert isinstance(weight, fx.Node)
    name = str(weight.target)
    value = graph_module.get_parameter(name)
    linear = (
        LinearMap(value.shape[0], value.shape[1], value.shape[1])
        if not spatial
        else LinearMap.of_convolution(
            value,
            stride=_per_dimension(arguments.get("stride", 1), spatial),
            padding=_padding(arguments.get("padding", 0), spatial),
            dilation=_per_dimension(arguments.get("dilation", 1), spatial),
            groups=int(arguments.get("groups", 1)),  # type: ignore[arg-type]
        )
    )
    bias_name = str(bias.target) if isinstance(bias, fx.Node) else None
    return name.removesuffix(".weight"), (linear, name, bias_name)


def _recognise_product(graph_module: fx.GraphModule, node: fx.Node) -> _Recognised | None:
    factors = _factors(node)
    weight, bias = factors["weight"], factors["bias"]
    if not _is_parameter(graph_module, weight) or factors["scaled"] or not isinstance(factors["input"], fx.Node):
        return None
    value = graph_module.get_parameter(str(weight.target))
    if value.dim() != 2:
        return None
    features, neurons = value.shape
    name = str(weight.target)
    bias_name = str(bias.target) if _is_parameter(graph_module, bias) else None
    return name.removesuffix(".weight"), (LinearMap(neurons, features, features, transposed=True), name, bias_name)


def _factors(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a matrix product by their roles."""
    if node.target in _ADDMM_FUNCTIONS:
        names = ("input", "mat1", "mat2")
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        scaled = given.get("beta", 1) != 1 or given.get("alpha", 1) != 1
        return {"input": given["mat1"], "weight": given["mat2"], "bias": given["input"], "scaled": scaled}
    values = (*node.args, *node.kwargs.values())
    return {"input": values[0], "weight": values[1], "bias": None, "scaled": False}


def _is_parameter(graph_module: fx.GraphModule, value: object) -> bool:
    return (
        isinstance(value, fx.Node)
        and value.op == "get_attr"
        and isinstance(fetch_attribute(graph_module, str(value.target)), nn.Parameter)
    )


def _per_dimension(value: object, spatial: int) -> tuple[int, ...]:
    return (value,) * spatial if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]


def _padding(value: object, spatial: int) -> tuple[int, ...] | str:
    return value if isinstance(value, str) else _per_dimension(value, spatial)


def _owners_by_parameter(
    graph_module: fx.GraphModule, found: dict[str, tuple[LinearMap, str, str | None]]
) -> dict[int, set[str]]:
    """Map the identity of each site's weight to all names under which the graph reads it.

    A module that lies at several paths has more names, but the graph calls it by one of them, and it is one site.
    """
    owners: dict[int, set[str]] = defaultdict(set)
    for target in {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}:
        for name, parameter in graph_module.get_submodule(target).named_parameters(target, remove_duplicate=False):
            owners[id(parameter)].add(name)
    for target in {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}:
        owners[id(fetch_attribute(graph_module, target))].add(target)
    for _, weight, _ in found.values():
        owners[id(graph_module.get_parameter(weight))].add(weight)
    return owners


def _refusal(
    graph_module: fx.GraphModule, calls: Sequence[fx.Node], weight: str, owners: dict[int, set[str]]
) -> str | None:
    parameter = graph_module.get_parameter(weight)
    if not parameter.is_floating_point():
        return f"its weight is {parameter.dtype}, not floating point"
    tied = sorted(owners[id(parameter)] - {weight})
    if tied:
        return f"its weight is tied to {', '.join(tied)}"
    if any(call.op == "call_module" and call.all_input_nodes[1:] for call in calls):
        return "it is called with output_size: how far its output reaches follows from more than its input"
    return None
