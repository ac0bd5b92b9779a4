"""Random tensors for tests, the same on every processor."""

import numpy as np
import torch
from torch import Tensor


class Draws:
    """A stream of random tensors that have the same values on every processor.

    torch's own normal numbers depend on the processor in their last digits: there is a kernel for each vector unit. So
    do those of `nn.init`, which matters only to a test that rests on rounding errors. numpy draws number by number.

    Args:
        seed: Seed of numpy's generator.
        dtype: Dtype of the tensors.
        stream: Which of the independent streams of that seed.

    Example:
        >>> draws = Draws(seed=1)
        >>> draws.normal(2, 3).shape, draws.uniform(4, low=-1).dtype
        (torch.Size([2, 3]), torch.float64)
    """

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64, *, stream: int = 0) -> None:
        self._generator, self._dtype = np.random.default_rng((seed, stream)), dtype

    def normal(self, *shape: int) -> Tensor:
        """Return a tensor of independent standard normal numbers."""
        return torch.from_numpy(self._generator.standard_normal(shape)).to(self._dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return a tensor of independent numbers, uniform from `low` to `high`."""
        return torch.from_numpy(self._generator.uniform(low, high, shape)).to(self._dtype)
