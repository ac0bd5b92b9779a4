"""The second door: a torch.export program becomes a plain GraphModule."""

import operator
from typing import Any

import torch.fx as fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxgrow.errors import TraceError
from fxgrow.graph.likeness import graph_module_like

#: of what torch.export writes on a node; the rest are fake tensors and its own provenance
_KEPT = ("nn_module_stack", "stack_trace")


def reference_of(program: ExportedProgram) -> fx.GraphModule:
    """Return the program's own module, whose ``train`` and ``eval`` do nothing instead of raising an error."""
    reference = program.module()
    assert isinstance(reference, fx.GraphModule)
    reference.train = lambda mode=True: reference  # type: ignore[method-assign]
    reference.eval = lambda: reference  # type: ignore[method-assign]
    return reference


def unpack(program: ExportedProgram) -> fx.GraphModule:
    """Rebuild an exported program as a GraphModule with one placeholder for each argument and clean parameter names.

    The program was exported in one mode and stays in it: ``.train()`` and ``.eval()`` do not change what it computes.

    Raises:
        TraceError: If its inputs or outputs are neither tensors nor tuples, lists and dicts of them.
    """
    source = reference_of(program)
    graph = fx.Graph()
    copies = _placeholders(source, graph, program)
    for node in source.graph.nodes:
        if node.op == "output":
            leaves = [copies[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in node.args[0]]
            graph.output(_structure(pytree.tree_unflatten(leaves, program.call_spec.out_spec), "the output"))
        elif node.op != "placeholder" and not _is_guard(node) and (node.users or node.op != "get_attr"):
            copies[node] = graph.node_copy(node, lambda value: copies[value])
            copies[node].meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
    return graph_module_like(source, graph)


def _is_guard(node: fx.Node) -> bool:
    """Recognise the check of input shapes that torch.export puts first; the gate and the shapes do that work here."""
    return node.op == "call_module" and node.target == "_guards_fn"


def _placeholders(source: fx.GraphModule, graph: fx.Graph, program: ExportedProgram) -> dict[fx.Node, fx.Node]:
    """Create one placeholder for each argument, and take the program's flat inputs out of them."""
    flat = source.graph.find_nodes(op="placeholder")
    args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    names = list(source.graph._codegen.pytree_info.orig_args)  # type: ignore[attr-defined]
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    made = {name: graph.placeholder(name) for name in arguments}
    copies: dict[fx.Node, fx.Node] = {}
    for name, value in arguments.items():
        _take_out(graph, made[name], _structure(value, f"input {name}"), copies)
    return copies


def _take_out(graph: fx.Graph, made: fx.Node, value: Any, copies: dict[fx.Node, fx.Node]) -> None:
    if isinstance(value, fx.Node):
        copies[value] = made
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, fx.Node | tuple | list | dict):
            _take_out(graph, graph.call_function(operator.getitem, (made, key)), item, copies)


def _structure(value: Any, where: str) -> Any:
    if isinstance(value, fx.Node | int | float | str | bool | None):
        return value
    if isinstance(value, dict):
        return {key: _structure(item, where) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_structure(item, where) for item in value)
    what = f"it holds a {type(value).__name__}, which is no tensor, tuple, list or dict"
    raise TraceError(what, where=where, fix="trace the model itself in place of the exported program")
