"""Structures of tensors: taken apart by name, and cut or repeated along the batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def flatten(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a tensor, tuple, list, mapping or dataclass, with a name for each."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from flatten(item, f"{name}[{index}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from flatten(getattr(value, field.name), f"{name}.{field.name}")


def batch_size_of(inputs: Any) -> int:
    """Return the size of the leading dimension of the first tensor that has one; 0 where there is none."""
    return next((tensor.shape[0] for _, tensor in flatten(inputs) if tensor.dim()), 0)


def resized(inputs: Any, size: int) -> Any:
    """Cut or repeat the leading dimension of all tensors that share it to `size`."""
    own = batch_size_of(inputs)
    return chosen(inputs, [index % own for index in range(size)], of=own) if own else inputs


def chosen(value: Any, indices: Sequence[int], *, of: int, dim: int = 0) -> Any:
    """Choose entries of one dimension, the leading one by default, in all tensors of a structure with `of` of them."""
    if isinstance(value, Tensor):
        if value.dim() <= dim or value.shape[dim] != of:
            return value
        return value.index_select(dim, torch.tensor(indices, device=value.device))
    if isinstance(value, Mapping):
        return {key: chosen(item, indices, of=of, dim=dim) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [chosen(item, indices, of=of, dim=dim) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
