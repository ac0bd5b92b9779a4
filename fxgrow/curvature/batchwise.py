"""Eigen-scores of operators that only know whole batches: Hessian blocks, and surrogates that are differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.cross_fit import mean_and_error
from fxgrow.curvature.lanczos import RitzPairs, lanczos
from fxgrow.curvature.matrices import deal_out
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.scores import SiteScores
from fxgrow.execution.structures import chosen

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
    return _part(batch, 0), _part(batch, 1)


def _part(batch: Batch, half: int) -> Batch:
    images = range(half, batch.images, 2)
    inputs, target = (chosen(value, images, of=batch.images) for value in (batch.inputs, batch.target))
    return replace(batch, index=half, inputs=inputs, target=target, images=len(images))


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
