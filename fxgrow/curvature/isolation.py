"""Running a model without a trace: its buffers, its mode, its gradients and the random state stay as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fxgrow.execution.randomness import preserved_randomness


@contextmanager
def undisturbed(module: nn.Module, seed: int) -> Iterator[None]:
    """Seed the random state on entering; on leaving restore it, and every buffer of `module`.

    BatchNorm in train mode moves its running statistics with every forward pass: they are put back in place, also where
    a forward replaced the buffer by another tensor, and after an error.
    """
    kept: list[tuple[nn.Module, str, Tensor, Tensor]] = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    try:
        with preserved_randomness(seed), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in kept:
                owner._buffers[name] = buffer
                # compared by value: native BatchNorm moves its statistics without raising their version counters
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
