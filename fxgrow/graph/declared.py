"""What a node does, as far as torch declares it: for nodes that cannot be run, for want of shapes or of a fake form.

In doubt the worst is assumed. A run knows better (`fxgrow.graph.observation`): it sees arguments, layouts and modes.
"""

import operator
from collections.abc import Hashable
from dataclasses import replace

import torch
import torch.fx as fx
from torch import nn
from torch._ops import OpOverload

from fxgrow.graph.descriptions import described
from fxgrow.graph.operation import Operation, any_of
from fxgrow.graph.spelling import overwritten_argument, plain_operator
from fxgrow.graph.unseen import (
    SECRET_READS,
    SECRET_VIEWS,
    SECRET_WRITES,
    SIZE_ATTRIBUTES,
    TRUTHS,
    is_arithmetic,
    is_pointwise,
    operation_name,
    runs_foreign_code,
)
from fxgrow.primitives.modules import qualified_name

_MODULES: dict[Hashable, Operation] = {}  # of torch: there are no more than it has classes and options
_TORCH = ("torch.", "builtins.TensorBase.", "_operator.")


def declared(graph_module: fx.GraphModule, node: fx.Node) -> Operation:
    """Return what `node` may do, by the schemas of the operations of its name."""
    everything = frozenset(range(len(node.all_input_nodes)))
    if node.op in ("placeholder", "get_attr"):
        return Operation()
    if node.op == "output":
        return Operation(reads=everything)
    overwritten = overwritten_argument(graph_module, node)
    writes = frozenset([node.all_input_nodes.index(overwritten)]) if overwritten is not None else frozenset()
    if runs_foreign_code(graph_module, node):
        found = Operation(everything, shares=everything, shows_state=True, moves=_state(graph_module, node), draws=True,
                          foreign=True, known=False)  # fmt: skip
    elif node.op == "call_module":
        found = _module(graph_module.get_submodule(str(node.target)), everything)
    elif node.target is getattr:
        sizes = node.args[1] in SIZE_ATTRIBUTES
        found = Operation() if sizes else Operation(everything, shares=everything)
    elif node.target is operator.getitem:
        found = Operation(everything, shares=everything)
    elif is_arithmetic(node):
        name = _name_of_operator(node)
        found = Operation(everything, pointwise=name not in TRUTHS | {"matmul"}, calls=frozenset([name]))
    elif qualified_name(node.target).startswith("fxgrow.primitives."):
        found = Operation(everything)
    else:
        found = _called_by_name(node, everything)
    return found.either(Operation(writes=writes, shares=writes, pointwise=found.pointwise))


def _name_of_operator(node: fx.Node) -> str:
    assert callable(node.target)
    return plain_operator(node.target).__name__


def reads_only_sizes(node: fx.Node) -> bool:
    """Say whether a node looks at the sizes, dtype or device of tensors and at none of their numbers."""
    places = frozenset(range(len(node.all_input_nodes)))
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in SIZE_ATTRIBUTES
    return node.op == "call_method" and not _called_by_name(node, places).reads


def _called_by_name(node: fx.Node, everything: frozenset[int]) -> Operation:
    overloads = _overloads(node)
    if not overloads:
        return Operation(everything, shares=everything, draws=True, known=False)
    name = overloads[0]._schema.name.partition("::")[2]
    tags = {tag for overload in overloads for tag in overload.tags}
    sizes = torch.Tag.data_dependent_output not in tags and name not in SECRET_READS
    sizes = sizes and not any("Tensor" in str(r.type) for overload in overloads for r in overload._schema.returns)
    return Operation(
        reads=frozenset() if sizes else everything,
        writes=everything - {0} if name in SECRET_WRITES else frozenset(),
        shares=everything if name in SECRET_VIEWS or torch.Tag.maybe_aliasing_or_mutating in tags
        else _viewed(node, overloads, everything),
        draws=torch.Tag.nondeterministic_seeded in tags,
        pointwise=name not in TRUTHS and all(map(is_pointwise, overloads)),
        calls=frozenset(map(operation_name, overloads)),
    )  # fmt: skip


def _viewed(node: fx.Node, overloads: list[OpOverload], everything: frozenset[int]) -> frozenset[int]:
    """Return the inputs that the result is a view of: the first argument alone, where only that is declared."""
    schemas = [overload._schema for overload in overloads]
    viewing = [schema for schema in schemas if any(value.alias_info for value in schema.returns)]
    if not viewing:
        return frozenset()
    first_alone = not any(argument.alias_info for schema in viewing for argument in schema.arguments[1:])
    first = node.args[0] if node.args else None
    return frozenset([node.all_input_nodes.index(first)]) if first_alone and isinstance(first, fx.Node) else everything


def _overloads(node: fx.Node) -> list[OpOverload]:
    """Return the operations on tensors that have the name of a function or method, without those that take ``out=``."""
    if isinstance(node.target, OpOverload):
        return [node.target]
    name = _name(node)
    if node.op == "call_function" and not qualified_name(node.target).startswith(_TORCH):
        return []
    name = name.strip("_") if name.endswith("__") else name
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    found = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return [overload for overload in found if _takes_tensors(overload)]


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _takes_tensors(overload: OpOverload) -> bool:
    arguments = overload._schema.arguments
    return any("Tensor" in str(argument.type) for argument in arguments) and not any(a.is_out for a in arguments)


def _module(module: nn.Module, everything: frozenset[int]) -> Operation:
    """Say what a module of torch does: one with tensors computes with them, and one without says it when traced."""
    key = described(module), everything
    if key not in _MODULES:
        _MODULES[key] = _unknown_module(module, everything)
    return _MODULES[key]


def _unknown_module(module: nn.Module, everything: frozenset[int]) -> Operation:
    if any(True for _ in (*module.parameters(), *module.buffers())):
        moves = frozenset(name for name, _ in module.named_buffers())
        return Operation(everything, moves=moves, draws=True)
    try:
        inside = fx.GraphModule(module, _Through().trace(module))
    except Exception:  # control flow on what is only known when it runs
        return Operation(everything, shares=everything, draws=True, known=False)
    calls = [node for node in inside.graph.nodes if node.op.startswith("call")]
    if not calls:
        return Operation(everything, shares=everything)
    found = any_of(declared(inside, node) for node in calls)
    return replace(
        found,
        reads=everything,
        writes=everything if found.writes else frozenset(),
        shares=everything if found.shares else frozenset(),
    )


class _Through(fx.Tracer):
    """Traces through the modules of torch, which torch.fx keeps whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False


def _state(graph_module: fx.GraphModule, node: fx.Node) -> frozenset[str]:
    if node.op != "call_module":
        return frozenset()
    module = graph_module.get_submodule(str(node.target))
    return frozenset(name for name, _ in (*module.named_parameters(), *module.named_buffers()))
