"""What lies between two values of a graph: the nodes of a residual branch or of a whole block."""

from collections.abc import Sequence
from functools import cached_property

import torch.fx as fx

from fxgrow.graph.residual import Ancestry


class Interiors:
    """Finds what lies between values of one graph."""

    def __init__(self, graph_module: fx.GraphModule, ancestry: Ancestry | None = None) -> None:
        self.graph_module = graph_module
        self.ancestry = ancestry or Ancestry(graph_module.graph)

    def between(self, entry: fx.Node, exit_node: fx.Node) -> tuple[fx.Node, ...]:
        """Return the nodes between entry and exit, with what only they read, and checks of what they compute."""
        inside = {
            node
            for node in self.graph_module.graph.nodes
            if self.ancestry.depends(node, entry) and (node is exit_node or self.ancestry.depends(exit_node, node))
        }
        known = 0
        while len(inside) > known:
            known = len(inside)
            self._add_sizes(inside, exit_node)
            self._add_sources(inside, entry)
        return tuple(node for node in self.graph_module.graph.nodes if node in inside)

    def _add_sizes(self, inside: set[fx.Node], exit_node: fx.Node) -> None:
        """Add what is computed from sizes and parameters inside, and what leads nowhere: assertions on sizes."""
        for node in self.graph_module.graph.nodes:
            computed = node not in self.useful or not self.ancestry.depends_on_any(node, self._given)
            if computed and any(value in inside and value is not exit_node for value in node.all_input_nodes):
                inside.add(node)

    def _add_sources(self, inside: set[fx.Node], entry: fx.Node) -> None:
        """Add what only nodes inside read, and is not computed from the model's inputs: parameters, sizes, modes."""
        for node in reversed(self.graph_module.graph.nodes):
            readers = [user for user in node.users if user in self.useful]
            own = node is not entry and readers and all(reader in inside for reader in readers)
            if own and not self.ancestry.depends_on_any(node, self._given):
                inside.add(node)

    @cached_property
    def useful(self) -> set[fx.Node]:
        """What the output is computed from."""
        output = self.graph_module.graph.output_node()
        return {n for n in self.graph_module.graph.nodes if n is output or self.ancestry.depends(output, n)}

    @cached_property
    def _given(self) -> int:
        return self.ancestry.mask(*self.graph_module.graph.find_nodes(op="placeholder"))


def modules_of(nodes: Sequence[fx.Node]) -> list[str]:
    """Return the paths of what nodes call and read of the model."""
    return [str(node.target) for node in nodes if node.op in ("call_module", "get_attr")]


def common_path(paths: Sequence[str]) -> list[str]:
    """Return the parts of the module path that all of some paths begin with.

    Example:
        >>> common_path(["blocks.0.norm2", "blocks.0.mlp.fc1"])
        ['blocks', '0']
    """
    split = [path.split(".") for path in paths]
    if not split:
        return []
    shortest = min(split, key=len)
    length = next((i for i, part in enumerate(shortest) if any(p[i] != part for p in split)), len(shortest))
    return shortest[:length]
