"""Eliminate dead code: drop operations whose values nobody reads."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.graph.effects import has_effect
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
        for node in reversed(graph_module.graph.nodes):
            if not node.users and not has_effect(graph_module, node):
                graph_module.graph.erase_node(node)
