"""Which node belongs to the forward of which module, as a tree of modules that can each be called.

A graph is flat. Each node says in whose forward it was recorded, and what it calls lies at a path: from these the
modules are put together again. A module whose nodes lie apart, as when it was called twice, has no forward of its own;
its nodes go to the module around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch.fx as fx
from torch import nn

from fxgrow.record.provenance import provenance_of
from fxgrow.tracing.mode_value import ModeValue


@dataclass(eq=False)
class Scope:
    """The forward of one module: the nodes and the calls of inner modules that it consists of, in order."""

    path: str
    steps: list["fx.Node | Scope"] = field(default_factory=list)

    def nodes(self) -> Iterator[fx.Node]:
        """Yield the nodes in it, those of inner modules included."""
        for step in self.steps:
            yield from step.nodes() if isinstance(step, Scope) else (step,)


@dataclass
class _Span:
    """Where the nodes of a module and of all below it lie."""

    first: int
    last: int
    nodes: int = 0
    own: bool = False  #: whether the module's own forward does more than call what it holds
    read: bool = False  #: whether one is read behind the last
    named: bool = True  #: whether all modules in it have names, not numbers


def without_identities(graph_module: fx.GraphModule) -> fx.Graph:
    """Return a copy of the graph in which no nn.Identity is called."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.Identity):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return graph


def follows_mode(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether a node is a value that follows ``.train()``, which is spelled where it is read."""
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), ModeValue)


def find_scopes(graph_module: fx.GraphModule, graph: fx.Graph) -> Scope:
    """Return the tree of modules of a graph, the model itself at its root.

    Args:
        graph_module: Holds what the graph calls.
        graph: What `without_identities` returned.
    """
    nodes = [n for n in graph.nodes if n.op.startswith("call_") and not follows_mode(graph_module, n)]
    owners = [_owner(node) for node in nodes]
    spans = _spans(nodes, owners)
    called = {path for path, span in spans.items() if span.last - span.first + 1 == span.nodes and span.read}
    called -= {path for path in called if not spans[path].own and not spans[path].named}
    root = Scope("")
    open_scopes = [root]
    for node, owner in zip(nodes, owners, strict=True):
        chain = ["", *(path for path in _prefixes(owner) if path in called)]
        while open_scopes[-1].path not in chain:
            open_scopes.pop()
        for path in chain[len(open_scopes) :]:
            scope = Scope(path)
            open_scopes[-1].steps.append(scope)
            open_scopes.append(scope)
        open_scopes[-1].steps.append(node)
    return root


def _owner(node: fx.Node) -> str:
    """Return the path of the module in whose forward a node stands, and in which lies what it calls."""
    made, stack = provenance_of(node), list((node.meta.get("nn_module_stack") or {}).values())
    owner = str(stack[-1][0]) if stack else ""
    if made is not None and made.owner:
        owner = made.part.path if made.part else made.owner
    if node.op == "call_module":
        while owner and not str(node.target).startswith(f"{owner}."):
            owner = owner.rpartition(".")[0]
    return owner


def _spans(nodes: Sequence[fx.Node], owners: Sequence[str]) -> dict[str, _Span]:
    """Return the span of each module by its path."""
    positions = {node: index for index, node in enumerate(nodes)}
    spans: dict[str, _Span] = {}
    for index, (node, owner) in enumerate(zip(nodes, owners, strict=True)):
        for path in _prefixes(owner):
            span = spans.setdefault(path, _Span(index, index))
            span.last, span.nodes = index, span.nodes + 1
            span.own |= path == owner and node.op != "call_module"
    for node, owner in zip(nodes, owners, strict=True):
        last = max((positions.get(user, len(nodes)) for user in node.users), default=-1)
        for path in _prefixes(owner):
            spans[path].read |= last > spans[path].last
            below = (str(node.target) if node.op == "call_module" else owner)[len(path) + 1 :].partition(".")[0]
            spans[path].named &= not below or below.isidentifier()
    return spans


def _prefixes(path: str) -> list[str]:
    """Return the path and all above it but the root, from the top down."""
    parts = path.split(".") if path else []
    return [".".join(parts[: index + 1]) for index in range(len(parts))]
