"""How in-place operations are spelled, and what each is called that returns a new value."""

import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from fxgrow.primitives.put import put

#: operator.iadd: operator.add, and so on
_OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(operator, f"i{name.strip('_')}"): getattr(operator, name)
    for name in ("add", "and_", "floordiv", "lshift", "matmul", "mod", "mul", "or_", "pow", "rshift", "sub", "truediv",
                 "xor")
}  # fmt: skip
#: methods whose namesake without the underscore does something else
_NO_NAMESAKE = {"resize_", "resize_as_", "share_memory_", "requires_grad_", "bernoulli_", "copy_", "set_"}


def overwritten_argument(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the value that `node` overwrites as its spelling says; None where it says nothing.

    Recognised are modules and functions with ``inplace=True``, ``operator.iadd`` and its kin, ``out=``, and methods
    and functions whose name ends in an underscore, as torch spells in-place operations.
    """
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return out
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    return first if isinstance(first, fx.Node) and _in_place(graph_module, node) else None


def inplace_position(node: fx.Node) -> int | str | None:
    """Return where a function call has ``inplace=True``: an index into args or the keyword; None if it has not."""
    if node.op != "call_function":
        return None
    if node.kwargs.get("inplace") is True:
        return "inplace"
    index = _inplace_index(node.target)
    return index if index is not None and len(node.args) > index and node.args[index] is True else None


def functional_form(node: fx.Node) -> str | Callable[..., Any] | None:
    """Return the method or function of the same arguments that returns what `node` writes; None if there is none."""
    if node.op == "call_method":
        name = str(node.target)
        namesake = name.removesuffix("_")
        return namesake if name not in _NO_NAMESAKE and callable(getattr(Tensor, namesake, None)) else None
    if node.target is operator.setitem:
        return put
    if node.target in _OPERATORS:
        return _OPERATORS[node.target]
    if isinstance(node.target, OpOverload):
        namespace, _, name = node.target._schema.name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
        return getattr(packet, node.target._overloadname, None)
    name = getattr(node.target, "__name__", "")
    for home in (torch, F):
        if getattr(home, name, None) is node.target and name not in _NO_NAMESAKE:
            found: Callable[..., Any] | None = getattr(home, name.removesuffix("_"), None)
            return found
    return None


def plain_operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator of Python that returns what an in-place one writes; any other function as it is."""
    return _OPERATORS.get(function, function)


def _in_place(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(graph_module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _ends_in_place(str(node.target))
    if getattr(node.target, "__module__", "") == "_operator":  # operator.and_ and or_ end in an underscore too
        return node.target in _OPERATORS or node.target is operator.setitem
    return inplace_position(node) is not None or _ends_in_place(getattr(node.target, "__name__", ""))


def _ends_in_place(name: str) -> bool:
    name = name.split(".")[0]
    return name.endswith("_") and not name.endswith("__")


@cache
def _inplace_index(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None
