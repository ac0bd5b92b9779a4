"""Operations that mutate their argument."""

import inspect
import operator
from functools import cache
from typing import Any

import torch.fx as fx
from torch import nn

_OPERATORS = {
    operator.iadd, operator.iand, operator.ifloordiv, operator.ilshift, operator.imatmul, operator.imod, operator.imul,
    operator.ior, operator.ipow, operator.irshift, operator.isub, operator.itruediv, operator.ixor, operator.setitem,
}  # fmt: skip


def mutated_value(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the value that `node` mutates in place; None where it mutates nothing.

    Recognised are modules and functions with ``inplace=True``, ``operator.iadd`` and its kin, ``out=``, and methods
    and functions whose name ends in an underscore, as torch spells in-place operations.
    """
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return out
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) and _mutates(graph_module, node) else None


def inplace_position(node: fx.Node) -> int | str | None:
    """Return where a function call has ``inplace=True``: an index into args or the keyword; None if it has not."""
    if node.kwargs.get("inplace") is True:
        return "inplace"
    index = _inplace_index(node.target)
    return index if index is not None and len(node.args) > index and node.args[index] is True else None


def _mutates(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module: nn.Module = graph_module.get_submodule(str(node.target))
        return getattr(module, "inplace", False) is True
    if node.op == "call_method":
        return _in_place_name(str(node.target))
    if node.op != "call_function":
        return False
    if getattr(node.target, "__module__", "") == "_operator":  # operator.and_ and or_ end in an underscore too
        return node.target in _OPERATORS
    return inplace_position(node) is not None or _in_place_name(getattr(node.target, "__name__", ""))


def _in_place_name(name: str) -> bool:
    name = name.split(".")[0]
    return name.endswith("_") and not name.endswith("__")


@cache
def _inplace_index(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None
