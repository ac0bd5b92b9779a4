"""What holds after every pass: the interface, the targets, and who may read a value that is mutated in place."""

from collections.abc import Iterator

import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.graph.annotations import annotation
from fxgrow.graph.inplace import mutated_value


def check_invariants(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check the structure of a rewritten graph against the graph that it came from.

    Raises:
        PassError: Where the placeholders or the output's structure changed, a target does not resolve, or a value that
            an operation mutates in place has more users than before.
    """
    if _interface(before) != _interface(after):
        raise PassError("the placeholders or the structure of the output changed", where="the graph's interface")
    for node in after.graph.nodes:
        if node.op in ("call_module", "get_attr") and not _resolves(after, str(node.target)):
            raise PassError("nothing lies at this path", where=str(node.target))
    known = {node.name for node in _shared_mutations(before)}
    for node in _shared_mutations(after):
        if node.name not in known:
            raise PassError("a value that is mutated in place has several users", where=describe(node))


def _interface(graph_module: fx.GraphModule) -> tuple[object, ...]:
    placeholders = [node.target for node in graph_module.graph.nodes if node.op == "placeholder"]
    output = fx.map_arg(graph_module.graph.output_node().args[0], lambda _: None)  # type: ignore[no-untyped-call]
    return placeholders, repr(output)


def _resolves(graph_module: fx.GraphModule, path: str) -> bool:
    here: object = graph_module
    for part in path.split("."):
        if not hasattr(here, part):
            return False
        here = getattr(here, part)
    return True


def _shared_mutations(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the nodes that mutate a value which other nodes read too."""
    for node in graph_module.graph.nodes:
        value = mutated_value(graph_module, node)
        if value is not None and len(value.users) > 1:
            yield node


def describe(node: fx.Node) -> str:
    """Name a node for people: the module path that it comes from, and its operation."""
    stack = node.meta.get("nn_module_stack")
    path = str(node.target) if node.op in ("call_module", "get_attr") else (list(stack)[-1] if stack else "")
    layer = annotation(node).get("provenance", {}).get("pseudo_layer", "")
    return path or layer or f"the call of {node.name}"
