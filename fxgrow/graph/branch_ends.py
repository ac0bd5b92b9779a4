"""What ends a residual branch: the parameters whose scale is the branch's scale."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.graph.declared import reads_only_sizes
from fxgrow.graph.operations import operations_of
from fxgrow.graph.residual import Ancestry, is_sum
from fxgrow.graph.sites import Site, find_sites
from fxgrow.primitives.modules import fetch_attribute

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_NORM_FUNCTIONS = {F.layer_norm: ("weight", 2), F.group_norm: ("weight", 2), F.rms_norm: ("weight", 2)}
#: operations that are linear in their first tensor and pass gradients on where it is zero, of which torch has no tag
_LINEAR = frozenset({
    "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "chunk", "clone", "contiguous", "div", "dropout", "flatten",
    "movedim", "native_dropout", "neg", "permute", "reshape", "reshape_as", "roll", "select", "slice", "split",
    "split_with_sizes", "squeeze", "swapaxes", "t", "to", "transpose", "true_divide", "truediv", "unbind", "unflatten",
    "unsafe_chunk", "unsafe_split", "unsqueeze", "view", "view_as",
})  # fmt: skip
_DROPOUT = frozenset({"dropout", "native_dropout"})
#: by what a name ends in: libraries have stochastic depth, a product with a random number, each of their own, and
#: transformers one for each model (SwinDropPath, ...)
_STOCHASTIC_DEPTH = ("DropPath", "StochasticDepth")


@dataclass(frozen=True)
class End:
    """The last linear map of a branch, or the norm or the scale behind it."""

    reader: fx.Node  #: the operation that reads the parameters
    parameters: tuple[str, ...]  #: where they are zero, the branch is, and gradients reach them
    #: whether the branch is linear in them: not so where a gate that is computed from them multiplies it
    linear: bool


class BranchEnds:
    """Finds the ends of the branches of one graph."""

    def __init__(self, graph_module: fx.GraphModule, ancestry: Ancestry | None = None) -> None:
        self.graph_module = graph_module
        self.operations = operations_of(graph_module)
        self.ancestry = ancestry or Ancestry(graph_module.graph)
        self.sites: dict[fx.Node, Site] = {
            call: site for site in find_sites(graph_module).values() for call in site.calls
        }
        self.readers = readers_of_tensors(graph_module)

    def of(self, value: fx.Node) -> tuple[End, ...]:
        """Return the ends of the branch that makes `value`, one for each part of a sum; empty where it has none.

        An end's parameters are read by one operation alone: what others read too is not the branch's to scale.
        """
        own = self._parameters(value)
        if own is not None:
            return (End(value, own, linear=True),) if own and self._private(own) else ()
        if is_sum(self.operations, value):
            parts = [self.of(part) for part in value.args[:2] if isinstance(part, fx.Node)]
            return tuple(end for part in parts for end in part) if all(parts) else ()
        if self._multiplies(value):
            return self._of_product(value)
        if self._passes(value) and value.args and isinstance(value.args[0], fx.Node):
            return self.of(value.args[0])
        return ()

    def obstacle(self, value: fx.Node, source: fx.Node) -> fx.Node | None:
        """Return what stands between two values so that the one is no multiple of the other; None where it is.

        Scales, views and dropout stand in nobody's way; sums and norms do.
        """
        while value is not source:
            factors = [factor for factor in value.args if isinstance(factor, fx.Node)]
            behind = [factor for factor in factors if factor is source or self.ancestry.depends(factor, source)]
            scales = self._multiplies(value) and len(behind) == 1
            if not scales and (not self._passes(value) or value.args[:1] != tuple(behind)):
                return value
            (value,) = behind
        return None

    def _multiplies(self, value: fx.Node) -> bool:
        return value.op != "call_module" and self.operations[value].calls == {"mul"}

    def _of_product(self, value: fx.Node) -> tuple[End, ...]:
        factors = [factor for factor in value.args if isinstance(factor, fx.Node)]
        for factor in factors:  # a scale, as LayerScale and the weight of a norm that is written out
            scale = self._unshaped(factor)
            if scale.op == "get_attr" and self._private((str(scale.target),)):
                return (End(value, (str(scale.target),), linear=True),)
        for factor in factors:
            ends = self.of(factor)
            if ends:
                gates = [other for other in factors if other is not factor]
                gated = any(self.ancestry.depends(gate, end.reader) for gate in gates for end in ends)
                return tuple(End(end.reader, end.parameters, end.linear and not gated) for end in ends)
        return ()

    def _unshaped(self, factor: fx.Node) -> fx.Node:
        """Return what views show of it, as a scale of channels is ``gamma.view(1, -1, 1, 1)``."""
        while factor.op != "get_attr" and self._passes(factor) and isinstance(factor.args[0], fx.Node):
            factor = factor.args[0]
        return factor

    def _parameters(self, node: fx.Node) -> tuple[str, ...] | None:
        """Return the parameters of a linear map or a norm; nothing for a norm without, None for any other node."""
        if node in self.sites:
            return tuple(name for name in (self.sites[node].weight, self.sites[node].bias) if name)
        if node.op == "call_module":
            module = self.graph_module.get_submodule(str(node.target))
            if not isinstance(module, _NORMS):
                return None
            names = [f"{node.target}.{name}" for name, value in module._parameters.items() if value is not None]
            return tuple(names) if getattr(module, "weight", None) is not None else ()
        if node.op != "call_function" or node.target not in _NORM_FUNCTIONS:
            return None
        keyword, place = _NORM_FUNCTIONS[node.target]
        weight = node.kwargs.get(keyword, node.args[place] if len(node.args) > place else None)
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return ()
        read = [*node.args, *node.kwargs.values()]
        return tuple(str(part.target) for part in read if isinstance(part, fx.Node) and part.op == "get_attr")

    def _private(self, names: tuple[str, ...]) -> bool:
        values = [fetch_attribute(self.graph_module, name) for name in names]
        return all(isinstance(value, nn.Parameter) and len(self.readers[id(value)]) == 1 for value in values)

    def _passes(self, node: fx.Node) -> bool:
        """Say whether a node is linear in its first tensor and holds no parameters."""
        if node.op == "call_module":
            module = self.graph_module.get_submodule(str(node.target))
            if [*module.parameters(), *module.buffers()]:
                return False
            if type(module).__name__.endswith(_STOCHASTIC_DEPTH):
                return True
        found = self.operations[node]
        return bool(found.reads or found.shares) and found.calls <= _LINEAR


def silent_in_evaluation(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether a node returns its input in evaluation mode: dropout and stochastic depth."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dropout = isinstance(module, nn.modules.dropout._DropoutNd)
        return dropout or type(module).__name__.endswith(_STOCHASTIC_DEPTH)
    calls = operations_of(graph_module)[node].calls
    return bool(calls) and calls <= _DROPOUT


def readers_of_tensors(graph_module: fx.GraphModule) -> dict[int, list[fx.Node]]:
    """Map the identity of each parameter and buffer to the operations that read its numbers, by whatever name."""
    readers: dict[int, list[fx.Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        for tensor in tensors_read(graph_module, node):
            users = [node] if node.op == "call_module" else [user for user in node.users if not reads_only_sizes(user)]
            readers[id(tensor)].extend(users)
    return readers


def tensors_read(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[torch.Tensor]:
    """Yield the parameters and buffers that a node reads of the model."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        yield from module.parameters()
        yield from module.buffers()
    elif node.op == "get_attr":
        value = fetch_attribute(graph_module, str(node.target))
        if isinstance(value, torch.Tensor):
            yield value
