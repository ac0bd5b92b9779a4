"""What holds after every pass: a well-formed graph, the same interface, no new reader of a value mutated in place."""

from typing import Any

import torch.fx as fx
from torch import nn
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import PassError, first_line
from fxgrow.graph.aliasing import reads_only_shape
from fxgrow.graph.inplace import mutated_value
from fxgrow.primitives.modules import resolves

#: Functions and methods whose result shares the memory of their first argument, where it can. `fxgrow.graph.aliasing`
#: errs on the other side, as a rewrite must; a check must not refuse what is right.
_VIEWS = {
    "T", "chunk", "contiguous", "detach", "expand", "expand_as", "flatten", "getattr", "getitem", "mT", "movedim",
    "narrow", "permute", "reshape", "select", "split", "squeeze", "swapaxes", "t", "transpose", "unbind", "unflatten",
    "unsqueeze", "view", "view_as",
}  # fmt: skip
_VIEW_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)


def check_structure(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check the structure of a rewritten graph against the graph that it came from.

    Raises:
        PassError: Where the graph is malformed, a target does not resolve, the placeholders or the output's structure
            changed, or a value that an operation mutates in place, or a view of it, has more readers than before.
    """
    for node in after.graph.nodes:
        if node.op in ("call_module", "get_attr") and not resolves(after, str(node.target)):
            raise PassError("nothing lies at this path", where=str(node.target))
    try:
        after.graph.lint()
    except (RuntimeError, ValueError) as error:
        raise PassError(f"the graph is malformed: {first_line(error)}", where="lint") from error
    if _interface(before) != _interface(after):
        raise PassError("the placeholders or the structure of the output changed", where="the graph's interface")
    readers = _readers_of_mutated(before)
    for node, count in _readers_of_mutated(after).items():
        if count > max(1, readers.get(node, 1)):
            raise PassError(f"a value that is mutated in place has {count} readers", where=f"the operation {node}")


def check_shapes(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Check that inputs and outputs have the shapes and dtypes that they had, where both graphs know them.

    Raises:
        PassError: Where one changed.
    """
    for name, old, new in zip(("inputs", "outputs"), _interface_shapes(before), _interface_shapes(after), strict=True):
        for index, (expected, found) in enumerate(zip(old, new, strict=True)):
            if expected is not None and found is not None and expected != found:
                raise PassError(f"{name[:-1]} {index} was {expected} and is {found}", where=f"the graph's {name}")


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


def _readers_of_mutated(graph_module: fx.GraphModule) -> dict[str, int]:
    """Count, for each operation that mutates a value, the operations that read that value or a view of it."""
    counts = {}
    for node in graph_module.graph.nodes:
        value = mutated_value(graph_module, node)
        if value is not None:
            counts[node.name] = len(_readers(graph_module, value))
    return counts


def _readers(graph_module: fx.GraphModule, value: fx.Node) -> set[fx.Node]:
    while _is_view(graph_module, value) and value.all_input_nodes:
        value = value.all_input_nodes[0]
    readers: set[fx.Node] = set()
    views = [value]
    while views:
        for user in views.pop().users:
            if not reads_only_shape(user):
                (views.append if _is_view(graph_module, user) else readers.add)(user)
    return readers


def _is_view(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph_module.get_submodule(str(node.target)), _VIEW_MODULES)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and str(name).split(".")[0] in _VIEWS
