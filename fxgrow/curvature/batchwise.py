"""Eigen-scores of operators that only know whole batches: Hessian blocks, and surrogates that are differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.cross_fit import mean_and_error
from fxgrow.curvature.lanczos import RitzPairs, lanczos
from fxgrow.curvature.matrices import deal_out
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.scores import SiteScores

#: maps vectors ``(problems, size)`` to the products for the mean loss over one batch
BatchOperator = Callable[[Batch, Tensor], Tensor]


def least_eigenvalues(
    operator: BatchOperator, batches: Sequence[Batch], start: Tensor, iterations: int, *, matrix: str
) -> SiteScores:
    """Return least eigenvalues over all batches, and held-out quotients of vectors found on either half.

    The standard error is that over batches. A single batch is cut in two first.
    """
    batches = halved(batches[0]) if len(batches) == 1 else tuple(batches)
    halves = deal_out({batch.index: batch.images for batch in batches})
    parts = [[batch for batch in batches if halves[batch.index] == half] for half in (0, 1)]
    whole = _least(operator, batches, start, iterations)
    found = [_least(operator, part, start, iterations) for part in parts]
    crossed = [_quotients(operator, part, pairs.vectors) for pairs, part in zip(found, reversed(parts), strict=True)]
    held_out, error = mean_and_error(crossed)
    return SiteScores(
        values=whole.values,
        held_out=held_out,
        stderr=error,
        matrix=matrix,
        eigenvectors=whole.vectors.cpu(),
        sign=-1,
        reliability=spearman(found[0].values, found[1].values),
        residuals=whole.residuals,
    )


def halved(batch: Batch) -> tuple[Batch, Batch]:
    """Cut a batch in two: every tensor of inputs and target with one entry for each image, even ones and odd ones."""
    first, second = (
        replace(
            batch,
            index=half,
            inputs=_every_second(batch.inputs, batch.images, half),
            target=_every_second(batch.target, batch.images, half),
            images=len(range(half, batch.images, 2)),
        )
        for half in (0, 1)
    )
    return first, second


def _every_second(value: Any, images: int, half: int) -> Any:
    if isinstance(value, Tensor):
        return value[half::2] if value.ndim and len(value) == images else value
    if isinstance(value, dict):
        return {name: _every_second(item, images, half) for name, item in value.items()}
    if isinstance(value, tuple | list):
        parts = [_every_second(item, images, half) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _least(operator: BatchOperator, batches: Sequence[Batch], start: Tensor, iterations: int) -> RitzPairs:
    images = sum(batch.images for batch in batches)

    def mean(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for batch in batches:
            total += operator(batch, vectors) * (batch.images / images)
        return total

    return lanczos(mean, start, iterations).pairs("least")


def _quotients(operator: BatchOperator, batches: Sequence[Batch], vectors: Tensor) -> tuple[Tensor, Tensor]:
    values = [(vectors * operator(batch, vectors)).sum(1).double().cpu() for batch in batches]
    return torch.stack(values), torch.tensor([batch.images for batch in batches], dtype=torch.float64)
