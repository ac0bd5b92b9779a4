"""Probe data: the batches on which scores are measured, read once and kept."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import AnalysisError
from fxgrow.execution.randomness import preserved_randomness

#: with fewer the least eigenvalue is mostly noise: with 64 images, 29 % of it was really there (docs/curvature.md)
ENOUGH_SAMPLES = 256


class FewSamplesWarning(UserWarning):
    """Scores were measured on so few samples that their eigenvalues are dominated by noise."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of probe data, as the model and the loss take it."""

    index: int
    inputs: tuple[Any, ...] | dict[str, Any]
    target: Any
    samples: int  #: samples in it: the leading dimension of the first tensor of the inputs


def read_batches(
    batches: Iterable[Any], device: torch.device, *, seed: int, max_samples: int | None = None
) -> tuple[Batch, ...]:
    """Read ``(inputs, target)`` pairs from any iterable, until there are `max_samples`, and move them to `device`.

    They are kept, because the analysis goes over them more than once. A loader that shuffles is seeded, and the global
    random state is left alone.

    Raises:
        AnalysisError: If there is no batch, or one is not a pair with a tensor among its inputs.
    """
    found: list[Batch] = []
    with preserved_randomness(seed):
        for index, item in enumerate(batches):
            if not isinstance(item, tuple | list) or len(item) != 2:
                fix = "let batches yield such pairs"
                raise AnalysisError("it is not a pair (inputs, target)", where=f"batch {index}", fix=fix)
            found.append(read_batch(index, item[0], item[1], device))
            if max_samples is not None and sum(batch.samples for batch in found) >= max_samples:
                break
    if not found:
        fix = "give pairs (inputs, target); an iterator that was already used up is empty too"
        raise AnalysisError("there is no batch in it", where="batches", fix=fix)
    check_samples(sum(batch.samples for batch in found))
    return tuple(found)


def read_batch(index: int, inputs: Any, target: Any, device: torch.device) -> Batch:
    """Move one batch to `device` and count its samples.

    Raises:
        AnalysisError: If there is no tensor among its inputs, or it is empty.
    """
    where = f"batch {index}"
    inputs, target = _to_device(inputs, device), _to_device(target, device)
    leading = next((tensor for tensor in tensors_in(inputs) if tensor.ndim), None)
    if leading is None:
        raise AnalysisError("there is no tensor among its inputs", where=where, fix="yield (inputs, target)")
    if not leading.shape[0]:
        raise AnalysisError("it is empty", where=where, fix="leave it out")
    if isinstance(inputs, Mapping):
        return Batch(index, dict(inputs), target, leading.shape[0])
    return Batch(index, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), target, leading.shape[0])


def check_samples(samples: int) -> None:
    """Warn where there are too few samples to trust scores.

    Raises:
        AnalysisError: If there is a single one.
    """
    if samples < 2:
        raise AnalysisError("one sample cannot be split into halves", where="batches", fix="give at least two")
    if samples < ENOUGH_SAMPLES:
        message = f"scores from fewer than {ENOUGH_SAMPLES} samples ({samples}) are mostly noise: trust `held_out` only"
        warnings.warn(message, FewSamplesWarning, stacklevel=4)


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


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _to_device(item, device) for name, item in value.items()}
    if isinstance(value, tuple | list):
        moved = [_to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
