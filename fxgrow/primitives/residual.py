"""The residual edge: how a pseudo-layer's output comes back to the rows that grew."""

from torch import Tensor


def add_rows(output: Tensor, addition: Tensor, rows: Tensor | None, channel_dim: int) -> Tensor:
    """Return `output` with `addition` added to some of its channels.

    Args:
        output: The value that grows; any shape with its channels in `channel_dim`.
        addition: The pseudo-layer's output, of the same shape but with one channel for each of `rows`.
        rows: Indices of the channels that grow, ``(rows,)`` of int64; None means all of them.
        channel_dim: The dimension that holds the channels, counted from the end.

    Returns:
        The sum, of the shape, dtype and memory layout of `output`.
    """
    addition = addition.to(output.dtype)  # autocast may have chosen another one
    if rows is None:
        return output + addition
    # torch.index_add forgets a channels-last layout, and the mask of a dropout depends on the layout of what it reads.
    return output.clone().index_add_(channel_dim, rows, addition)
