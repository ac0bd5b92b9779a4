"""Where a neuron has an activation of its own: the elementwise function behind a site, and its second derivative."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.graph.activations import apply, pointwise, twice_differentiable
from fxgrow.graph.operations import operations_of
from fxgrow.record.location import module_path

Scalar = Callable[[Tensor], Tensor]
Shape = Literal["straight", "kinked", "curved"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class ElementwiseRegion:
    """A part of the graph that computes ``a = h(O)`` elementwise from a site's output, and from nothing else.

    BatchNorm in eval mode is an affine map of each channel and takes part: its scale enters h'' by the chain rule.
    """

    exit: fx.Node  #: the node that computes a
    function: Scalar  #: h
    twice_differentiable: Scalar  #: h, or for a ReLU, whose second derivative is zero, the softplus that stands in

    @property
    def surrogate(self) -> bool:
        """Whether something stands in for h."""
        return self.twice_differentiable is not self.function

    def first_derivative(self, output: Tensor) -> Tensor:
        """Return h'(O), of the shape of `output`."""
        return first_derivative(self.function, output)

    def second_derivative(self, output: Tensor) -> Tensor:
        """Return h''(O), of the shape of `output`."""
        return second_derivative(self.twice_differentiable, output)


def region_after(graph_module: fx.GraphModule, call: fx.Node) -> ElementwiseRegion | str:
    """Return the elementwise function that alone reads `call`, as far as it reaches; or why there is none.

    The region is the longest one: behind ``relu`` and ``square`` the neuron's activation is squared ReLU.
    """
    members = _members(graph_module, call)
    for exit_node in reversed(members):
        nodes = _between(call, exit_node, members)
        if not _leads_out_only_at_the_end(call, nodes):
            continue
        shapes = {_shape_of(graph_module, node) for node in nodes}
        if shapes != {"straight"}:
            function = _compile(graph_module, call, nodes, rounded=False)
            smooth = function if "curved" in shapes else _compile(graph_module, call, nodes, rounded=True)
            return ElementwiseRegion(exit_node, function, smooth)
    return _reason(graph_module, call)


def _members(graph_module: fx.GraphModule, call: fx.Node) -> list[fx.Node]:
    """Return the nodes that depend elementwise on `call`, and on no other tensor, in graph order."""
    members: list[fx.Node] = []
    reached, node = {call}, call.next
    while node.op != "root":
        inputs = node.all_input_nodes
        if inputs and reached.issuperset(inputs) and _is_elementwise(graph_module, node):
            members.append(node)
            reached.add(node)
        node = node.next
    return members


def _is_elementwise(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if isinstance(module, _BATCH_NORMS):
            return not module.training and module.track_running_stats
        idle = type(module) in (nn.PReLU, nn.Identity) or _is_idle_dropout(module)
        return idle or pointwise(graph_module, node) is not None
    found = operations_of(graph_module)[node]
    return found.pointwise and not found.draws


def _is_idle_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and (not module.training or module.p == 0)


def _between(call: fx.Node, exit_node: fx.Node, members: list[fx.Node]) -> list[fx.Node]:
    """Return the members that `exit_node` is computed from, itself last, in graph order."""
    needed = {exit_node}
    for node in reversed(members):
        if node in needed:
            needed.update(source for source in node.all_input_nodes if source is not call)
    return [node for node in members if node in needed]


def _leads_out_only_at_the_end(call: fx.Node, nodes: list[fx.Node]) -> bool:
    inside = set(nodes)
    return all(user in inside for node in (call, *nodes[:-1]) for user in node.users)


def _shape_of(graph_module: fx.GraphModule, node: fx.Node) -> Shape:
    """Say what the function of one node does to its second derivative."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if type(module) is nn.PReLU:
            return "kinked"
        if isinstance(module, (*_BATCH_NORMS, nn.Identity, nn.modules.dropout._DropoutNd)):
            return "straight"
    if len(node.all_input_nodes) > 1:
        return "straight" if not is_curved(_along_a_line(node)) and not kinks(_along_a_line(node)) else "curved"
    function = _compile(graph_module, node.all_input_nodes[0], [node], rounded=False)
    if is_curved(function):
        return "curved"
    return "kinked" if kinks(function) else "straight"


def _along_a_line(node: fx.Node) -> Callable[[Tensor], Tensor]:
    """Return what a node makes of inputs that all grow with one number, each at a pace of its own."""
    slopes = {source: place + 1.0 for place, source in enumerate(node.all_input_nodes)}
    return lambda t: apply(node, {source: slope * t + slope for source, slope in slopes.items()})


def _compile(
    graph_module: fx.GraphModule, call: fx.Node, nodes: list[fx.Node], rounded: bool
) -> Callable[[Tensor], Tensor]:
    """Build the function that `nodes` compute of `call`, as a graph of its own that shares the modules.

    With `rounded`, piecewise linear nodes are replaced by functions that have their kinks rounded.
    """
    graph = fx.Graph()
    copies = {call: graph.call_method("clone", (graph.placeholder("output"),))}  # some nodes may work in place
    for node in nodes:
        substitute = twice_differentiable(graph_module, node)
        if substitute is not None and not rounded:
            copies[node] = graph.call_function(substitute, (copies[node.all_input_nodes[0]],))
        elif rounded and _shape_of(graph_module, node) == "kinked":
            copies[node] = graph.call_function(_smoothed(graph_module, node), (copies[node.all_input_nodes[0]],))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[-1]])
    paths = {str(node.target) for node in nodes if node.op == "call_module"}
    modules = {path: _in_full_precision(graph_module.get_submodule(path)) for path in paths}
    return fx.GraphModule(modules, graph)


def _in_full_precision(module: nn.Module) -> nn.Module:
    """Return `module`, or a float32 copy of it where it computes in less: second derivatives need the digits."""
    tensors = [*module.parameters(), *module.buffers()]
    low = any(t.is_floating_point() and t.dtype not in (torch.float32, torch.float64) for t in tensors)
    return copy.deepcopy(module).float() if low else module


def _smoothed(graph_module: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor]:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if isinstance(module, nn.PReLU):
            return smooth_prelu(module.weight.detach())
    return smooth(kinks(_compile(graph_module, node.all_input_nodes[0], [node], rounded=False)))


def _reason(graph_module: fx.GraphModule, call: fx.Node) -> str:
    if not call.users:
        return "nothing reads its output"
    if len(call.users) > 1:
        return f"{len(call.users)} operations read its output, and together they are no elementwise activation"
    (reader,) = call.users
    if reader.op == "call_module":
        module = graph_module.get_submodule(str(reader.target))
        if isinstance(module, _BATCH_NORMS):
            return (
                f"{reader.target} is a BatchNorm in train mode, or without activation behind it: it mixes the samples"
            )
        return f"{reader.target} ({type(module).__name__}) behind it is no elementwise activation"
    return f"{module_path(reader) or reader.name} behind it is no elementwise activation"


#: sharpness of the softplus that stands in for a kink, as in the published code of splitting steepest descent
SOFTPLUS_BETA = 3.0
_STEP = 1 / 16


def first_derivative(function: Scalar, z: Tensor) -> Tensor:
    """Return f'(z) elementwise, of the shape of `z`."""
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        z = z.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(z).sum(), z, materialize_grads=True)
    return first.detach()


def second_derivative(function: Scalar, z: Tensor) -> Tensor:
    """Return f''(z) elementwise, of the shape of `z`, by differentiating an elementwise `function` twice."""
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        z = z.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True, materialize_grads=True)
        if not first.requires_grad:
            return torch.zeros_like(z)
        (second,) = torch.autograd.grad(first.sum(), z, materialize_grads=True)
    return second.detach()


def is_curved(function: Scalar) -> bool:
    """Whether the second derivative is anything but zero somewhere in [-8, 8]."""
    return bool((second_derivative(function, _grid()) != 0).any())


@dataclass(frozen=True)
class Kink:
    """A point where the slope of a piecewise linear function changes."""

    position: float
    slope_change: float


def kinks(function: Scalar) -> tuple[Kink, ...]:
    """Return the kinks in [-8, 8] of a piecewise linear function, their positions rounded to sixteenths.

    Example:
        >>> kinks(torch.nn.functional.relu6)
        (Kink(position=0.0, slope_change=1.0), Kink(position=6.0, slope_change=-1.0))
    """
    grid = _grid().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(grid).sum(), grid, materialize_grads=True)
    change = slope[1:] - slope[:-1]
    changes = change.abs().gt(1e-9).nonzero().flatten().tolist()
    positions = grid.detach() + _STEP / 2
    return tuple(Kink(float(positions[i]), float(change[i])) for i in changes)


def smooth(kinks: tuple[Kink, ...]) -> Scalar:
    """Return ``sum_k s_k softplus(z - b_k)``: the kinks of a piecewise linear function, each made smooth.

    It differs from that function by a straight line and by the smoothing; its second derivative is
    ``sum_k s_k beta sigma'(beta (z - b_k))``.
    """

    def smooth_kinks(z: Tensor) -> Tensor:
        total = torch.zeros_like(z)
        for kink in kinks:
            total = total + kink.slope_change * F.softplus(z - kink.position, beta=SOFTPLUS_BETA)
        return total

    return smooth_kinks


def smooth_prelu(weight: Tensor) -> Scalar:
    """Return PReLU with its kink made smooth; `weight` holds one slope, or one for each channel (dimension 1)."""

    def smooth_kink(z: Tensor) -> Tensor:
        slope = weight.view(1, -1, *[1] * (z.ndim - 2)) if z.ndim > 1 else weight
        return slope * z + (1 - slope) * F.softplus(z, beta=SOFTPLUS_BETA)

    return smooth_kink


def _grid() -> Tensor:
    """Return points halfway between the sixteenths of [-8, 8], so that the kinks in use fall between two of them."""
    return torch.arange(-8 + _STEP / 2, 8, _STEP, dtype=torch.float64)
