"""Batches of probe data, as the model and the loss take them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import AnalysisError


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of probe data, on the model's device."""

    index: int
    inputs: tuple[Any, ...] | dict[str, Any]
    target: Any
    samples: int  #: how many samples the loss is a mean over; batches count by it
    dim: int | None = 0  #: the dimension of the inputs along which they lie; None where the inputs do not show them


def as_inputs(index: int, inputs: Any, device: torch.device) -> tuple[Any, ...] | dict[str, Any]:
    """Return the inputs of one batch on `device`, as positional arguments or by keyword.

    Raises:
        AnalysisError: If there is no tensor with a leading dimension among them, or it is empty.
    """
    where = f"batch {index}"
    inputs = to_device(inputs, device)
    leading = next((tensor for tensor in tensors_in(inputs) if tensor.ndim), None)
    if leading is None:
        raise AnalysisError("there is no tensor among its inputs", where=where, fix="yield (inputs, target)")
    if not leading.numel():
        raise AnalysisError("it is empty", where=where, fix="leave it out")
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested structure of tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def to_device(value: Any, device: torch.device) -> Any:
    """Return a nested structure with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, tuple | list):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
