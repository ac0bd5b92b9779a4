"""The residual edge: how a pseudo-layer's output comes back to the rows that grew."""

import torch
from torch import Tensor


def add_rows(output: Tensor, addition: Tensor, rows: Tensor | None, channel_dim: int) -> Tensor:
    """Return `output` with `addition` added to some of its channels.

    Args:
        output: The value that grows; any shape with its channels in `channel_dim`.
        addition: The pseudo-layer's output, of the same shape but with one channel for each of `rows`.
        rows: Indices of the channels that grow, ``(rows,)`` of int64; None means all of them.
        channel_dim: The dimension that holds the channels, counted from the end.
    """
    addition = addition.to(output.dtype)  # autocast may have chosen another one
    if rows is None:
        return output + addition
    return torch.index_add(output, channel_dim, rows, addition)
