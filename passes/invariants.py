"""What holds after every pass: a well-formed graph, the same interface, no new reader of a value mutated in place."""

from typing import Any

import torch.fx as fx
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import PassError, first_line
from fxgrow.graph.memory import touches
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.primitives.modules import resolves
from fxgrow.record.location import name_of

_FIX = "mend the pass that made the graph"


def check_structure(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check the structure of a rewritten graph against the graph that it came from.

    Raises:
        PassError: Where the graph is malformed, a target does not resolve, the placeholders or the output's structure
            changed, or a value that an operation mutates in place, or a view of it, has more readers than before.
    """
    for node in after.graph.nodes:
        if node.op in ("call_module", "get_attr") and not resolves(after, str(node.target)):
            raise PassError("nothing lies at this path", where=str(node.target), fix=_FIX)
    try:
        after.graph.lint()
    except (RuntimeError, ValueError) as error:
        raise PassError(f"the graph is malformed: {first_line(error)}", where="lint", fix=_FIX) from error
    if _interface(before) != _interface(after):
        what = "the placeholders or the structure of the output changed"
        raise PassError(what, where="the graph's interface", fix=_FIX)
    readers = _readers_of_mutated(before)
    for name, (node, count) in _readers_of_mutated(after).items():
        if count > max(1, readers[name][1] if name in readers else 1):
            what = f"a value that is mutated in place has {count} readers"
            raise PassError(what, where=name_of(node), fix=_FIX)


def check_shapes(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check that inputs and outputs have the shapes and dtypes that they had, where both graphs know them.

    Raises:
        PassError: Where one changed.
    """
    for name, old, new in zip(("inputs", "outputs"), _interface_shapes(before), _interface_shapes(after), strict=True):
        for index, (expected, found) in enumerate(zip(old, new, strict=True)):
            if expected is not None and found is not None and expected != found:
                what = f"{name[:-1]} {index} was {expected} and is {found}"
                raise PassError(what, where=f"the graph's {name}", fix=_FIX)


def _interface(graph_module: fx.GraphModule) -> tuple[object, ...]:
    placeholders = [(node.target, repr(node.args)) for node in graph_module.graph.find_nodes(op="placeholder")]
    output = fx.map_arg(graph_module.graph.output_node().args[0], lambda _: None)
    return placeholders, repr(output)


def _interface_shapes(graph_module: fx.GraphModule) -> tuple[list[str | None], list[str | None]]:
    """Return the shapes of the inputs and of the outputs, in order; None for a value without one."""
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    outputs: list[fx.Node] = []
    fx.map_arg(graph_module.graph.output_node().args[0], outputs.append)  # as often as each is returned
    return [_shape(node) for node in placeholders], [_shape(node) for node in outputs]


def _shape(node: fx.Node) -> str | None:
    metadata = node.meta.get("tensor_meta")
    return None if metadata is None else _spell_shape(metadata)


def _spell_shape(metadata: Any) -> str:
    if isinstance(metadata, TensorMetadata):
        return f"{metadata.dtype} {tuple(metadata.shape)}"
    if isinstance(metadata, tuple | list):
        return f"({', '.join(_spell_shape(item) for item in metadata)})"
    return repr(metadata)


def _readers_of_mutated(graph_module: fx.GraphModule) -> dict[str, tuple[fx.Node, int]]:
    """Count, for each operation by name that mutates a value, the operations that read it or a view of it."""
    operations = operations_of(graph_module)
    return {
        node.name: (node, max(len(_readers(operations, value)) for value in written))
        for node in graph_module.graph.nodes
        if (written := operations.written(node))
    }


def _readers(operations: Operations, value: fx.Node) -> set[fx.Node]:
    """Return who reads a value or a view of what it shows; the check must not refuse what is right."""
    while shown := _viewed(operations, value):
        value = shown[0]
    readers: set[fx.Node] = set()
    views = [value]
    while views:  # a view comes behind what it shows
        shown_value = views.pop()
        for user in shown_value.users:
            if shown_value in _viewed(operations, user):
                views.append(user)
            elif touches(operations, user, shown_value):
                readers.add(user)
    return readers


def _viewed(operations: Operations, node: fx.Node) -> list[fx.Node]:
    """Return the values of which a node is known to be a view, and nothing else."""
    found = operations[node]
    return operations.shown(node) if found.known and not found.writes else []
