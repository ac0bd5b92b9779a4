"""Elementwise activations: which nodes are one, and the function that they apply."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.execution.inputs import device_of
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import Operations, operations_of

Elementwise = Callable[[Tensor], Tensor]

#: torch does not differentiate the backward of hardsigmoid; this is the same function
_TWICE_DIFFERENTIABLE: dict[object, Elementwise] = {
    kind: lambda x: F.relu6(x + 3) / 6 for kind in (nn.Hardsigmoid, F.hardsigmoid, torch.ops.aten.hardsigmoid.default)
}
#: where a function is tried, to tell a curve from a straight line: no kink in use is at all of these
_POINTS = (-7.0, -2.5, -0.75, 0.375, 1.25, 5.0, 9.0)


def activation_after(
    graph_module: fx.GraphModule, node: fx.Node, operations: Operations | None = None
) -> fx.Node | None:
    """Return the elementwise activation that alone reads `node`; None where there is none, or where others read too.

    Who asks for many gives the graph's `operations`, which are looked up otherwise.
    """
    if len(node.users) != 1:
        return None
    (reader,) = node.users
    return reader if elementwise(graph_module, reader, operations) is not None else None


def elementwise(
    graph_module: fx.GraphModule, node: fx.Node, operations: Operations | None = None
) -> Elementwise | None:
    """Return the function of one tensor that an activation node applies; None for any other node.

    An activation is what torch knows to be pointwise (`fxgrow.graph.operations`), of one tensor and without parameters,
    and no straight line: a scale or a shift is none. The function never works in place, whatever the node's flags say.
    """
    function = pointwise(graph_module, node, operations)
    if function is None:
        return None
    return function if _is_curved(graph_module, function, len(shape_of(node) or (1, 1))) else None


def pointwise(graph_module: fx.GraphModule, node: fx.Node, operations: Operations | None = None) -> Elementwise | None:
    """Return the function that a node applies to each number of the only tensor that it reads; None if there is none.

    Modules with parameters have no such function: theirs is another one for each channel.
    """
    found = (operations or operations_of(graph_module))[node]
    if len(node.all_input_nodes) != 1 or not found.pointwise or found.draws:
        return None
    (source,) = node.all_input_nodes
    if shape_of(node) != shape_of(source):
        return None
    if node.op != "call_module":
        substitute = twice_differentiable(graph_module, node)
        return substitute or (lambda x: apply(node, {source: x.clone() if found.writes else x}))
    module = graph_module.get_submodule(str(node.target))
    if next(module.parameters(), None) is not None:
        return None
    return twice_differentiable(graph_module, node) or (lambda x: module(x.clone()) if found.writes else module(x))


def twice_differentiable(graph_module: fx.GraphModule, node: fx.Node) -> Elementwise | None:
    """Return a function that torch differentiates twice in place of a node's own, of which it does not; else None."""
    if node.op == "call_module":
        return _TWICE_DIFFERENTIABLE.get(type(graph_module.get_submodule(str(node.target))))
    return _TWICE_DIFFERENTIABLE.get(node.target)


def apply(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
    """Return what the function or method of a node makes of other values of its inputs."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    target: Any = node.target
    function = partial(getattr(args[0], target), *args[1:]) if node.op == "call_method" else partial(target, *args)
    result: Tensor = function(**kwargs)
    return result


def _is_curved(graph_module: fx.GraphModule, function: Elementwise, dims: int) -> bool:
    """Say whether the slope of a function is another one in another place; no for what makes no real numbers."""
    points = torch.tensor(_POINTS, dtype=torch.float64, device=device_of(graph_module))
    with torch.no_grad():
        values = function(points.reshape(-1, *[1] * (dims - 1))).flatten()
    if not values.is_floating_point():
        return False
    slopes = values.diff() / points.diff()
    return not torch.allclose(slopes, slopes[:1].expand_as(slopes), rtol=1e-9, atol=0.0)
