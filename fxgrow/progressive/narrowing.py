"""A part of a width: the first hidden units and heads, as slices of the tensors that hold all of them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.passes.slim import Slim
from fxgrow.primitives.modules import add_module, fetch_attribute, resolves
from fxgrow.widths.resizing import Resizing, respell


@dataclass(frozen=True)
class Slice:
    """What runs along one dimension of a tensor."""

    dim: int
    index: tuple[int, ...]
    outgoing: bool  #: whether the dimension holds what goes out of hidden units: zero for units that wake

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the slice, a view where it is one piece."""
        first, length = self.index[0], len(self.index)
        if self.index == tuple(range(first, first + length)):
            return tensor.narrow(self.dim, first, length)
        pieces = [tensor.narrow(self.dim, start, count) for start, count in _pieces(self.index)]
        return torch.cat(pieces, self.dim)


@dataclass(frozen=True)
class IdleSlice:
    """A piece of a tensor that is idle."""

    name: str
    tensor: Tensor
    dim: int
    start: int
    count: int
    outgoing: bool

    @property
    def view(self) -> Tensor:
        """The piece, without a gradient, to read and to write."""
        return self.tensor.detach().narrow(self.dim, self.start, self.count)


Slices = Mapping[str, tuple[Slice, ...]]


class Narrowed(nn.Module):
    """A module that runs on slices of its tensors, which it shares; statistics are updated in place."""

    def __init__(self, inner: nn.Module, slices: Slices) -> None:
        super().__init__()
        self.inner, self.slices = inner, dict(slices)
        self.training = inner.training

    def forward(self, x: Tensor) -> Any:
        """Apply the module."""
        tensors = {name: take(fetch_attribute(self.inner, name), slices) for name, slices in self.slices.items()}
        return torch.func.functional_call(self.inner, tensors, (x,))

    def extra_repr(self) -> str:
        """Say what runs."""
        return str({name: [(part.dim, len(part.index)) for part in slices] for name, slices in self.slices.items()})


class Taken(nn.Module):
    """The slice that runs of a tensor that the graph reads itself."""

    def __init__(self, slices: tuple[Slice, ...]) -> None:
        super().__init__()
        self.slices = slices

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the slice."""
        return take(tensor, self.slices)

    def extra_repr(self) -> str:
        """Say what runs."""
        return str([(part.dim, len(part.index)) for part in self.slices])


def take(tensor: Tensor, slices: tuple[Slice, ...]) -> Tensor:
    """Return the part of a tensor that runs."""
    for part in slices:
        tensor = part(tensor)
    return tensor


def plan_width(graph_module: fx.GraphModule, share: float) -> Resizing:
    """Work out which tensors are sliced so that the first units of all hidden widths run, and the first heads.

    Raises:
        PassError: If no width can change.
    """
    return Slim(share, heads=True).plan(graph_module)


def width_slices(graph_module: fx.GraphModule, share: float) -> dict[str, tuple[Slice, ...]]:
    """Return what runs of each tensor that does not run whole, by its name."""
    return slices_of(plan_width(graph_module, share)) if share < 1 else {}


def slices_of(resizing: Resizing) -> dict[str, tuple[Slice, ...]]:
    """Return the slices as plain data, by the names of the tensors."""
    columns = {site.weight: 0 if site.map.transposed else 1 for site in resizing.found.sites.values()}
    return {
        name: tuple(Slice(s.dim, tuple(s.index.tolist()), columns.get(name) == s.dim) for s in steps)
        for name, steps in resizing.steps.items()
    }


def narrow(graph_module: fx.GraphModule, resizing: Resizing) -> None:
    """Let a graph run on slices, in place; `resizing` was planned on this very graph."""
    respell(graph_module, resizing, keep_scale=False)
    by_owner: dict[str, dict[str, tuple[Slice, ...]]] = defaultdict(dict)
    for name, slices in slices_of(resizing).items():
        by_owner[name.rpartition(".")[0]][name.rpartition(".")[2]] = slices
    for node in list(graph_module.graph.nodes):
        owner, _, name = str(node.target).rpartition(".")
        if node.op == "get_attr" and name in by_owner.get(owner, {}):
            _narrow_attribute(graph_module, node, by_owner[owner][name])
        elif node.op == "call_module" and str(node.target) in by_owner:
            _narrow_module(graph_module, node, by_owner[str(node.target)])


def _narrow_module(graph_module: fx.GraphModule, node: fx.Node, slices: Slices) -> None:
    inner = graph_module.get_submodule(str(node.target))
    held = {name: part for name, part in slices.items() if getattr(inner, name, None) is not None}
    if held:
        node.target = f"{node.target}_narrow"
        if not resolves(graph_module, node.target):
            add_module(graph_module, node.target, Narrowed(inner, held))


def _narrow_attribute(graph_module: fx.GraphModule, node: fx.Node, slices: tuple[Slice, ...]) -> None:
    readers, path = list(node.users), f"{node.target}_narrow"
    if not resolves(graph_module, path):
        add_module(graph_module, path, Taken(slices))
    with graph_module.graph.inserting_after(node):
        taken = graph_module.graph.call_module(path, (node,))
    for reader in readers:
        reader.replace_input_with(node, taken)


def idle_slices(model: nn.Module, running: Slices, later: Slices) -> Iterator[IdleSlice]:
    """Yield the pieces of tensors that run in a later stage and not in this one."""
    for name, slices in running.items():
        tensor, awake = fetch_attribute(model, name), {part.dim: part.index for part in later.get(name, ())}
        for part in slices:
            idle = set(awake.get(part.dim, range(tensor.shape[part.dim]))) - set(part.index)
            for start, count in _pieces(tuple(sorted(idle))):
                yield IdleSlice(name, tensor, part.dim, start, count, part.outgoing)


def wake_units(model: nn.Module, before: Slices, after: Slices) -> list[nn.Parameter]:
    """Let the outgoing weights of units that wake be zero, in place, so that the function stays.

    Returns:
        The parameters of which more runs than before.
    """
    woken: dict[str, nn.Parameter] = {}
    for piece in idle_slices(model, before, after):
        if piece.outgoing:
            piece.view.zero_()
        if isinstance(piece.tensor, nn.Parameter):
            woken[piece.name] = piece.tensor
    return list(woken.values())


def _pieces(index: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return starts and lengths of the runs of neighbours in an ascending index."""
    starts = [place for place in range(len(index)) if not place or index[place] != index[place - 1] + 1]
    return [(index[a], b - a) for a, b in zip(starts, [*starts[1:], len(index)], strict=True)]
