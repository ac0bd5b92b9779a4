"""Rank correlation."""

import torch
from torch import Tensor


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
