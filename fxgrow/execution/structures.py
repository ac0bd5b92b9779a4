"""Structures of tensors: tuples, lists, mappings, dataclasses, and other objects with tensors in their attributes."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.passes.shape_prop import TensorMetadata

#: torch.fx's own kinds, and one that is a dict to who reads it
_PLAIN: dict[type, type] = {immutable_dict: dict, immutable_list: list, defaultdict: dict}
Function = Callable[[Any], Any]
#: what is looked for in an object that is no dataclass; it may point back to itself by others
_PARTS = (Tensor, TensorMetadata, Mapping, tuple, list, bool, int, float, str, type(None))


def parts_of(value: Any) -> dict[Any, Any] | None:
    """Return the items or attributes of a structure by index, key or name; None for anything else."""
    if isinstance(value, Tensor | TensorMetadata | nn.Module | fx.Node | fx.Proxy | type):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop, "step": value.step}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    attributes = {name: item for name, item in getattr(value, "__dict__", {}).items() if isinstance(item, _PARTS)}
    return attributes if any(isinstance(item, Tensor | TensorMetadata) for item in attributes.values()) else None


def by_attribute(value: Any) -> bool:
    """Say whether the parts of a structure are attributes, and not items."""
    return not isinstance(value, Mapping | tuple | list)


def with_parts(value: Any, parts: Mapping[Any, Any]) -> Any:
    """Return a structure of the kind of `value` with other parts under the same keys."""
    if isinstance(value, tuple | list):
        items = list(parts.values())
        if isinstance(value, torch.Size) and not all(isinstance(item, int) for item in items):
            return tuple(items)  # a torch.Size holds nothing else
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, slice):
        return slice(*parts.values())
    if type(value) in (dict, immutable_dict) or (isinstance(value, Mapping) and not hasattr(value, "__setitem__")):
        return dict(parts)
    result = copy.copy(value)
    for key, part in parts.items():
        if by_attribute(value):
            object.__setattr__(result, key, part)  # a frozen dataclass is one too
        else:
            result[key] = part
    return result


def mapped(value: Any, function: Function) -> Any:
    """Return a structure like `value` with `function` applied to everything in it that is no structure."""
    parts = parts_of(value)
    if parts is None:
        return function(value)
    return with_parts(value, {key: mapped(part, function) for key, part in parts.items()})


def holds_tensor(value: Any) -> bool:
    """Say whether `value` is a tensor, or a structure with one in it."""
    return next(flatten(value), None) is not None


def flatten(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a structure, with a name for each."""
    if isinstance(value, Tensor):
        yield name, value
    for key, part in (parts_of(value) or {}).items():
        yield from flatten(part, f"{name}.{key}" if by_attribute(value) else f"{name}[{key!r}]")


def kinds_of(value: Any, name: str = "output") -> dict[str, str]:
    """Return the class of each tuple, list, mapping or object in a structure, by the name that `flatten` gives it."""
    parts = parts_of(value)
    if parts is None:
        return {}
    found = {
        name: next((kind.__name__ for base, kind in _PLAIN.items() if isinstance(value, base)), type(value).__name__)
    }
    for key, part in parts.items():
        found |= kinds_of(part, f"{name}.{key}" if by_attribute(value) else f"{name}[{key!r}]")
    return found


def batch_size_of(inputs: Any) -> int:
    """Return the size of the leading dimension of the first tensor that has one; 0 where there is none."""
    return next((tensor.shape[0] for _, tensor in flatten(inputs) if tensor.dim()), 0)


def resized(inputs: Any, size: int) -> Any:
    """Cut or repeat the leading dimension of all tensors that share it to `size`."""
    own = batch_size_of(inputs)
    return chosen(inputs, [index % own for index in range(size)], of=own) if own else inputs


def chosen(value: Any, indices: Sequence[int], *, of: int, dim: int = 0) -> Any:
    """Choose entries of one dimension, the leading one by default, in all tensors of a structure with `of` of them."""

    def choose(item: Any) -> Any:
        if not isinstance(item, Tensor) or item.dim() <= dim or item.shape[dim] != of:
            return item
        return item.index_select(dim, torch.tensor(indices, device=item.device))

    return mapped(value, choose)
