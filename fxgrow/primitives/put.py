"""Writing a part of a tensor without writing to its memory."""

from typing import Any

from torch import Tensor


def put(value: Tensor, key: Any, item: Any) -> Tensor:
    """Return a copy of `value` with ``copy[key] = item``: what a subscripted assignment leaves behind.

    Example:
        >>> import torch
        >>> put(torch.zeros(3), 0, 1.0)
        tensor([1., 0., 0.])
    """
    copy = value.clone()
    copy[key] = item
    return copy
