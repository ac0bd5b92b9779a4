"""The statistics of scores: a mean over halves with its standard error, and rank correlation."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fxgrow.execution.ranks import ALONE, Ranks


def joined(parts: Iterable[tuple[Tensor, Tensor]], *shape: int) -> tuple[Tensor, Tensor]:
    """Return values ``(parts, *shape)`` and the samples of each part in one tensor; empty where a rank has none."""
    found = list(parts)
    values = [torch.zeros(0, *shape, dtype=torch.float64), *(value for value, _ in found)]
    return torch.cat(values), torch.cat([torch.zeros(0, dtype=torch.float64), *(samples for _, samples in found)])


def mean_and_error(halves: list[tuple[Tensor, Tensor]], ranks: Ranks = ALONE) -> tuple[Tensor, Tensor]:
    """Return the mean over halves of each half's mean over samples, and its standard error.

    Args:
        halves: For each half, values ``(parts, neurons)`` and the samples in each part ``(parts,)``.
        ranks: The ranks that have parts of them.

    Returns:
        ``mean = sum_p w_p q_p`` with ``w_p`` = samples of part p / (halves x samples of its half), and
        ``stderr^2 = P / (P - 1) sum_p w_p^2 (q_p - mean)^2`` over all P parts; each ``(neurons,)``.
    """
    values = torch.cat([value for value, _ in halves])
    sums = [samples.double().sum() for _, samples in halves]
    *totals, parts = ranks.sum(torch.stack([*sums, torch.tensor(len(values), dtype=torch.float64)]))
    shares = [samples / total for (_, samples), total in zip(halves, totals, strict=True)]
    weights = torch.cat(shares).unsqueeze(1) / len(halves)
    mean = ranks.sum((weights * values).sum(0))
    variance = ranks.sum((weights.square() * (values - mean).square()).sum(0))
    return mean, (variance * parts / max(float(parts) - 1, 1)).sqrt()


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two vectors, ties sharing their mean rank; None if either is constant.

    Example:
        >>> import torch
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0])), 6)
        0.5
    """
    ranks = torch.stack([_ranks(first), _ranks(second)])
    centred = ranks - ranks.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(centred, dim=1)
    if bool((norms == 0).any()):
        return None
    return float((centred[0] @ centred[1]) / norms.prod())


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = torch.cumsum(counts, 0).double()
    mean: Tensor = last - (counts - 1) / 2
    return mean[inverse]
