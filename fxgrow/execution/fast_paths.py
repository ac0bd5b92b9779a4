"""The inference kernels that torch's attention takes without gradients in eval mode, switched off for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Let nn.MultiheadAttention and nn.TransformerEncoder compute as they do with gradients, also without.

    The fast path gives the same up to rounding, but for zeros in the place of what is padded.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
