"""Eliminate dead code: drop operations whose values nobody reads."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.graph.digest import qualified_name
from fxgrow.graph.inplace import mutated_value
from fxgrow.passes.base import Pass

#: parts of the names of operations that draw random numbers or move statistics
_EFFECTS = ("alpha_dropout", "batch_norm", "bernoulli", "binomial", "dropout", "dot_product_attention", "embedding",
            "fractional_max_pool", "gumbel", "instance_norm", "multi_head_attention", "multinomial", "normal",
            "poisson", "rand", "rrelu")  # fmt: skip
_PURE_HOMES = ("torch.", "_operator.", "math.")


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


def has_effect(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether `node` may do anything but return a value; in doubt it may."""
    if node.op == "call_module":
        return _module_has_effect(graph_module, node)
    if node.op not in ("call_function", "call_method"):
        return True
    if node.is_impure() or mutated_value(graph_module, node) is not None or not node.all_input_nodes:
        return True
    if node.op == "call_method":
        return _named_for_an_effect(str(node.target))
    name = qualified_name(node.target)
    return node.target is not getattr and (not name.startswith(_PURE_HOMES) or _named_for_an_effect(name))


def _module_has_effect(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    module = graph_module.get_submodule(str(node.target))
    holds_tensors = bool([*module.parameters(), *module.buffers()])
    foreign = not type(module).__module__.startswith("torch.nn.modules.")
    return holds_tensors or foreign or mutated_value(graph_module, node) is not None or _named_for_an_effect(
        type(module).__name__
    )  # fmt: skip


def _named_for_an_effect(name: str) -> bool:
    name = name.lower().replace("_", "")
    return any(effect.replace("_", "") in name for effect in _EFFECTS)
