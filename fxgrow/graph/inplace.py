"""Operations that mutate their argument."""

import inspect
import operator

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
    if not node.args and "input" not in node.kwargs:
        return None
    first = node.args[0] if node.args else node.kwargs["input"]
    if not isinstance(first, fx.Node) or not _mutates(graph_module, node):
        return None
    return first


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
    return _inplace_flag(node) or _in_place_name(getattr(node.target, "__name__", ""))


def _in_place_name(name: str) -> bool:
    name = name.split(".")[0]
    return name.endswith("_") and not name.endswith("__")


def _inplace_flag(node: fx.Node) -> bool:
    if node.kwargs.get("inplace") is True:
        return True
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return "inplace" in names and len(node.args) > names.index("inplace") and node.args[names.index("inplace")] is True
