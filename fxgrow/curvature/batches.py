"""Batches of probe data, as the model and the loss take them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import AnalysisError
from fxgrow.execution.structures import flatten, mapped


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of probe data, on the model's device."""

    index: int
    inputs: Any  #: positional arguments in a tuple, a dict by keyword, or `fxgrow.execution.calling.Inputs`
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


def halved(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """Return the same data in batches of half the size, where their samples lie in front; others stay as they are."""
    halves = [half for batch in batches for half in _halves(batch)]
    return tuple(replace(half, index=index) for index, half in enumerate(halves))


def _halves(batch: Batch) -> Iterator[Batch]:
    count = batch.samples
    tensors = [tensor for part in (batch.inputs, batch.target) for tensor in tensors_in(part)]
    if batch.dim != 0 or count < 2 or any(tensor.ndim == 0 or len(tensor) != count for tensor in tensors):
        yield batch
        return
    for some in (slice(0, count // 2), slice(count // 2, count)):

        def taken(item: Any, some: slice = some) -> Any:
            return item[some] if isinstance(item, Tensor) else item

        inputs, target = mapped(batch.inputs, taken), mapped(batch.target, taken)
        yield replace(batch, inputs=inputs, target=target, samples=some.stop - some.start)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a structure."""
    return (tensor for _, tensor in flatten(value))


def to_device(value: Any, device: torch.device) -> Any:
    """Return a structure with its tensors on `device`."""
    return mapped(value, lambda item: item.to(device) if isinstance(item, Tensor) else item)
