"""Deep copies, also of models that hold what Python cannot copy."""

import copy
from collections import deque
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeVar

import torch.fx as fx
from torch import Tensor

_Value = TypeVar("_Value")
#: never looked into: `copy.deepcopy` shares them, or they hold nothing of a model's state
_ATOMS = (fx.Graph, type, FunctionType, BuiltinFunctionType, str, bytes, int, float, complex, type(None))


def deep_copy(value: _Value, memo: dict[int, Any] | None = None) -> _Value:
    """Return a deep copy of a module or of anything that one holds.

    Two things are done that `copy.deepcopy` does not do. A tensor that was computed and is kept in an attribute, as the
    weight is by the old weight_norm and by pruning, is copied by value. What Python cannot copy at all, as a lock, an
    open file or a module of Python, is shared with the original.

    Args:
        value: What is copied.
        memo: As for `copy.deepcopy`: copies that exist already, by the id of the original. It is written to.
    """
    memo = {} if memo is None else memo
    seen: dict[int, object] = {}
    pending: list[Any] = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, _ATOMS) or id(part) in seen or id(part) in memo:
            continue
        seen[id(part)] = part
        if isinstance(part, Tensor):
            if not part.is_leaf:
                memo[id(part)] = part.detach().clone()
        elif (contents := _contents(part)) is not None:
            pending.extend(contents)
        elif _is_uncopyable(part):
            memo[id(part)] = part
        else:
            pending.extend(getattr(part, "__dict__", {}).values())
    return copy.deepcopy(value, memo)


def _contents(value: Any) -> Iterable[Any] | None:
    """Return the items of a container, or what a bound method is bound to; None for anything else."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, MethodType):
        return (value.__self__,)
    return value if isinstance(value, list | tuple | set | frozenset | deque) else None


def _is_uncopyable(value: Any) -> bool:
    if hasattr(value, "__deepcopy__"):
        return False
    try:
        value.__reduce_ex__(4)
    except Exception:  # TypeError for a lock; a class of the user's may raise anything
        return True
    return False
