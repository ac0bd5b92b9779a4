"""Functionalize in-place operations: let each value be written once."""

import copy
import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.graph.aliasing import may_share_memory, reads_only_shape
from fxgrow.graph.inplace import inplace_position, mutated_value
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion
from fxgrow.primitives.modules import add_module, fresh_path

_FUNCTIONAL: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add, operator.iand: operator.and_, operator.ifloordiv: operator.floordiv,
    operator.imatmul: operator.matmul, operator.imod: operator.mod, operator.imul: operator.mul,
    operator.ior: operator.or_, operator.ipow: operator.pow, operator.isub: operator.sub,
    operator.itruediv: operator.truediv, operator.ixor: operator.xor,
}  # fmt: skip
#: methods whose namesake without the underscore does something else
_NO_NAMESAKE = {"resize_", "resize_as_", "share_memory_", "requires_grad_", "bernoulli_", "copy_", "set_"}


@dataclass(frozen=True)
class FunctionalizeInplace(Pass):
    """Let operations return a new value instead of overwriting their argument.

    A residual edge may lead from any value of the graph. Into a value that is overwritten later it would carry the
    wrong numbers, without an error.

    Rewrites:
        1. Modules with ``inplace=True`` and no parameters, as ``nn.ReLU(inplace=True)``: a new module takes their place
           in the graph; the flag of the user's module is not touched.
        2. Functions with ``inplace=True``, as ``F.relu(x, inplace=True)``, or an underscore, as ``torch.relu_(x)``.
        3. ``operator.iadd`` and its kin: ``operator.add``.
        4. Methods: ``x.add_(y)`` becomes ``x.add(y)``.

        Who reads the overwritten value afterwards reads the result instead. An input of the graph that was overwritten
        keeps its value.

    Leaves alone:
        1. Values of which another view is read afterwards, such as ``view``, ``chunk`` or an item, or that some
           operation may have passed through.
        2. ``setitem``, ``copy_``, ``zero_`` and other operations without a functional namesake.
        3. Parameters, buffers and constants (`get_attr`): writing them is what such an operation is for.
        4. Operands that would give a new result another dtype, as a float that is added in place to a half.

    Preserves:
        Outputs, gradients, the random stream, parameters and their names. Idempotent.
    """

    name: ClassVar[str] = "functionalize-inplace"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Rewrite one operation after the other, in the order in which they run."""
        position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
        calls: dict[str, list[fx.Node]] = defaultdict(list)
        for node in graph_module.graph.nodes:
            value = mutated_value(graph_module, node)
            if value is None or not _safe(graph_module, node, value, position):
                continue
            if node.op == "call_module":
                calls[str(node.target)].append(node)
            elif not _functionalize_call(graph_module, node):
                continue
            for user in list(value.users):
                if position[user] > position[node]:
                    user.replace_input_with(value, node)
        for path, nodes in calls.items():
            _functionalize_module(graph_module, path, nodes)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return nothing: the normal form stays."""
        return ()


def _safe(graph_module: fx.GraphModule, node: fx.Node, value: fx.Node, position: dict[fx.Node, int]) -> bool:
    """Say whether nothing but `value` itself shows that it was overwritten by `node`."""
    if node.op == "call_module" and next(graph_module.get_submodule(str(node.target)).parameters(), None) is not None:
        return False
    earlier = {other: index for other, index in position.items() if index < position[node]}
    sharing = may_share_memory(graph_module, value, earlier)
    if any(other.op == "get_attr" for other in sharing) or not _keeps_dtype(node, value):
        return False
    return not any(
        position[user] > position[node] and not reads_only_shape(user)
        for other in sharing - {value}
        for user in other.users
    )


def _keeps_dtype(node: fx.Node, value: fx.Node) -> bool:
    """Say whether the other operands would not change the dtype of a new result; yes where dtypes are not known."""
    dtypes = [getattr(other.meta.get("tensor_meta"), "dtype", None) for other in (value, *node.all_input_nodes)]
    own = dtypes[0]
    return own is None or all(dtype is None or torch.promote_types(own, dtype) == own for dtype in dtypes)


def _functionalize_call(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Rewrite a function or a method; return whether it has a functional form."""
    if node.op == "call_method":
        name = str(node.target)
        namesake = getattr(Tensor, name.removesuffix("_"), None)
        if name in _NO_NAMESAKE or not callable(namesake):
            return False
        node.target = name.removesuffix("_")
        return True
    where = inplace_position(node)
    if where is not None:
        if isinstance(where, int):
            node.update_arg(where, False)
        else:
            node.update_kwarg(where, False)
        return True
    function = _namesake(node.target)
    if function is not None:
        node.target = function
    return function is not None


def _namesake(target: Any) -> Callable[..., Any] | None:
    """Return the function that returns what `target` writes."""
    if target in _FUNCTIONAL:
        return _FUNCTIONAL[target]
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
        return getattr(packet, target._overloadname, None)
    name = getattr(target, "__name__", "")
    for home in (torch, F):
        if getattr(home, name, None) is target and name not in _NO_NAMESAKE:
            return getattr(home, name.removesuffix("_"), None)
    return None


def _functionalize_module(graph_module: fx.GraphModule, path: str, nodes: list[fx.Node]) -> None:
    functional = copy.deepcopy(graph_module.get_submodule(path))
    functional.inplace = False  # type: ignore[assignment]
    parent_path, _, name = path.rpartition(".")
    parent = graph_module.get_submodule(parent_path)
    callers = [node for node in graph_module.graph.nodes if node.op == "call_module" and node.target == path]
    if len(callers) == len(nodes) and (parent is graph_module or type(parent) is nn.Module):
        setattr(parent, name, functional)
        return
    path = fresh_path(graph_module, path.replace(".", "_"))
    add_module(graph_module, path, functional)
    for node in nodes:
        node.target = path
