"""What only arranges the numbers of a value anew, and whether several such operations bring them back in order."""

import math
from collections.abc import Iterable

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import operations_of

#: operations that keep the numbers and their order
_RESHAPING = frozenset({
    "_reshape_alias", "_unsafe_view", "alias", "clone", "contiguous", "flatten", "reshape", "squeeze", "unflatten",
    "unsqueeze", "view", "view_as",
})  # fmt: skip
#: operations that keep the numbers, and exchange dimensions
_PERMUTING = frozenset({"movedim", "permute", "swapaxes", "swapdims", "t", "transpose"})


class Arrangements:
    """The operations of one graph that pass values on: identity modules, reshapes, permutations of dimensions."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module, self.operations = graph_module, operations_of(graph_module)

    def passes_on(self, node: fx.Node) -> bool:
        """Say whether a node has the numbers of its first input, and no others."""
        if node.op == "call_module":
            return type(self.graph_module.get_submodule(str(node.target))) is nn.Identity
        calls = self.operations[node].calls
        if not calls or not calls <= _RESHAPING | _PERMUTING or shape_of(node) is None:
            return False
        return calls <= _RESHAPING or len(node.all_input_nodes) == 1

    def source_of(self, value: fx.Node) -> fx.Node:
        """Return the value that was passed on as this one."""
        while self.passes_on(value):
            value = value.all_input_nodes[0]
        return value

    def way(self, source: fx.Node, value: fx.Node) -> list[fx.Node]:
        """Return the nodes that pass on the one value as the other, in order."""
        nodes: list[fx.Node] = []
        while value is not source:
            nodes.insert(0, value)
            value = value.all_input_nodes[0]
        return nodes

    def restore(self, first: fx.Node, passed: Iterable[fx.Node]) -> bool:
        """Say whether a value that these nodes pass on ends in its own shape, with all numbers in their places."""
        nodes, shape = list(passed), shape_of(first)
        if not nodes or shape is None:
            return not nodes
        numbers = counted = torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)
        for node in nodes:
            numbers = self._pass_on(node, numbers)
        return numbers.shape == counted.shape and torch.equal(numbers, counted)

    def _pass_on(self, node: fx.Node, numbers: Tensor) -> Tensor:
        if node.op == "call_module":
            return numbers
        if self.operations[node].calls <= _RESHAPING:  # sizes may be values of the graph: the shape is known
            return numbers.reshape(shape_of(node))  # type: ignore[arg-type]
        call = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target  # type: ignore[arg-type]
        passed: Tensor = call(numbers, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return passed
