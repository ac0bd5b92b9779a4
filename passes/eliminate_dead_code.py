"""Eliminate dead code: drop operations whose values nobody reads."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.graph.operations import Operations, operations_of
from fxgrow.passes.base import Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Drop operations whose values nobody reads.

    Rewrites:
        1. A function or method of torch, ``operator`` or ``math`` on values of the graph whose result has no user.
        2. A module of ``torch.nn`` without parameters and buffers whose result has no user.
        3. What only these read, in turn.

    Leaves alone:
        1. Operations in place, and whatever else `torch.fx.Node.is_impure` knows, assertions among them.
        2. Dropout and other consumers of the random stream: without them later draws would come out otherwise.
        3. Modules and ``get_attr`` nodes that hold parameters or buffers: BatchNorm moves its statistics though nobody
           reads its result, and a state dict must keep its keys.
        4. Modules and functions that torch does not own: they may have effects.

    Preserves:
        The function, every gradient, the random stream, the state dict. Idempotent.
    """

    name: ClassVar[str] = "eliminate-dead-code"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Erase dead operations from the end to the start, so that what only they read is dead by then."""
        operations = operations_of(graph_module)
        for node in reversed(graph_module.graph.nodes):
            if not node.users and _may_go(graph_module, operations, node):
                graph_module.graph.erase_node(node)


def _may_go(graph_module: fx.GraphModule, operations: Operations, node: fx.Node) -> bool:
    if not node.op.startswith("call") or not node.all_input_nodes or operations.has_effect(node):
        return False
    return node.op != "call_module" or not graph_module.get_submodule(str(node.target)).state_dict()
