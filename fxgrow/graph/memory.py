"""Which values of a graph may lie in the same memory, who overwrites them, and which operations may change places."""

from collections.abc import Collection, Iterable, Iterator

import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.location import name_of


def sharing(operations: Operations, value: fx.Node, *, before: fx.Node | None = None) -> set[fx.Node]:
    """Return the values that may show the memory of `value`, itself included; only those before a node, if given."""
    found, pending = {value}, [value]
    while pending:  # each value is put in once
        for neighbour in _neighbours(operations, pending.pop()):
            if neighbour not in found and (before is None or neighbour < before):
                found.add(neighbour)
                pending.append(neighbour)
    return found


def touches(operations: Operations, node: fx.Node, value: fx.Node) -> bool:
    """Say whether `node` has to do with the numbers of `value`: it reads, shows, overwrites or returns them."""
    return node.op == "output" or value in (
        *operations.read(node),
        *operations.shown(node),
        *operations.written(node),
    )


def overwrites(graph_module: nn.Module) -> bool:
    """Say whether an operation of the graph may overwrite the value of another."""
    operations = operations_of(graph_module)
    return any(operations.written(node) for node in operations.graph_module.graph.nodes)


def overwriters(operations: Operations, value: fx.Node, *, after: fx.Node) -> list[fx.Node]:
    """Return the operations behind `after` that may overwrite the memory of `value`, in graph order."""
    shown = sharing(operations, value)
    users = {user for other in shown for user in other.users if user > after}
    return sorted(user for user in users if shown.intersection(operations.written(user)))


def refuse_overwritten(
    operations: Operations, value: fx.Node, *, after: fx.Node, where: str, by: Collection[fx.Node] | None = None
) -> None:
    """Refuse to read a value where an operation behind `after` overwrites it.

    Args:
        operations: What the graph's operations do.
        value: What would be read.
        after: The place from which on it would be read.
        where: The place in the words of the user.
        by: The operations that are looked at; all of them if None.

    Raises:
        PassError: If there is one.
    """
    if any(by is None or node in by for node in overwriters(operations, value, after=after)):
        fix = "run the pass functionalize-inplace first, or leave this place out"
        raise PassError(f"{name_of(value)} is overwritten in place by a later operation", where=where, fix=fix)


def may_swap(graph_module: fx.GraphModule, one: Iterable[fx.Node], other: Iterable[fx.Node]) -> bool:
    """Say whether operations that do not read each other may run in either order.

    They may not where both draw random numbers, or one changes memory or state that the other changes or reads.
    """
    operations = operations_of(graph_module)
    one, other = list(one), list(other)
    if any(operations[node].draws for node in one) and any(operations[node].draws for node in other):
        return False
    (changed, read), (changed_too, read_too) = (_access(operations, nodes) for nodes in (one, other))
    return changed.isdisjoint(changed_too | read_too) and changed_too.isdisjoint(read)


def _access(operations: Operations, nodes: list[fx.Node]) -> tuple[set[object], set[object]]:
    """Return the memory that some nodes change and that they read: values of the graph, and tensors of the model."""
    changed: set[object] = set()
    read: set[object] = set()
    for node in nodes:
        own = dict(_state(operations.graph_module, node))
        read.update(own.values())
        changed.update(own.get(name, (node.target, name)) for name in operations[node].moves)
        for value in operations.written(node):
            changed.update(_memory(operations, value))
        for value in {*operations.read(node), *operations.shown(node)}:
            read.update(_memory(operations, value))
    return changed, read


def _memory(operations: Operations, value: fx.Node) -> Iterator[object]:
    for shown in sharing(operations, value):
        is_state = shown.op == "get_attr"
        yield id(fetch_attribute(operations.graph_module, str(shown.target))) if is_state else shown


def _state(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[str, int]]:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            yield name, id(tensor)


def _neighbours(operations: Operations, node: fx.Node) -> Iterator[fx.Node]:
    yield from operations.shown(node)
    for user in node.users:
        if user.op != "output" and node in operations.shown(user):
            yield user
