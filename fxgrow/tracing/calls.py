"""What a trace has recorded, call by call."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch.fx as fx
from torch import nn
from torch.fx.proxy import Attribute

from fxgrow.execution.structures import mapped
from fxgrow.graph.declared import declared, reads_only_sizes
from fxgrow.tracing.interception import contexts

#: methods that torch declares under no name of their own
_CASTS = {"bfloat16", "bool", "byte", "char", "cpu", "cuda", "double", "float", "half", "int", "long", "short"}


@dataclass(eq=False)
class ModuleCall:
    """One call of a module while tracing: what was recorded in it, in order, and what it returned."""

    path: str
    #: how deep in torch.autocast, and under which hooks on saved tensors, the call began
    contexts: tuple[int, object] = field(default_factory=contexts)
    children: "list[ModuleCall | fx.Node]" = field(default_factory=list)
    result: Any = None

    def forget(self, erased: set[fx.Node]) -> None:
        """Drop nodes that were erased from the graph."""
        self.children = [child for child in self.children if child not in erased]
        self.result = mapped(self.result, lambda value: None if node_of(value) in erased else value)
        for child in self.children:
            if isinstance(child, ModuleCall):
                child.forget(erased)


@dataclass(frozen=True)
class Opaque:
    """A module that tracing would falsify or cannot enter: `stack` names it last, after the modules around it."""

    stack: tuple[str, ...]
    reason: str


def node_of(value: Any) -> fx.Node | None:
    """Return the node behind a node or a proxy; None for anything else, and for an attribute that nothing has read."""
    if isinstance(value, fx.Proxy):
        value = vars(value).get("_node") if isinstance(value, Attribute) else value.node
    return value if isinstance(value, fx.Node) else None


def drop_unread(graph: fx.Graph, root: nn.Module) -> set[fx.Node]:
    """Erase what is read by nobody and does nothing else; forward may compute more of it in one of the modes."""
    erased = set()
    for node in reversed(graph.nodes):
        if not node.users and (reads_only_sizes(node) or _does_nothing(node, root)):
            graph.erase_node(node)
            erased.add(node)
    return erased


def _does_nothing(node: fx.Node, root: nn.Module) -> bool:
    """Say whether a function or method does nothing but return a value: no write, no random number, no check."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.op == "call_method" and node.target in _CASTS:
        return True
    found = declared(cast(fx.GraphModule, root), node)
    return found.known and not (node.is_impure() or found.writes or found.draws or found.foreign)
