"""What a task draws its mini-batches from, and what it is tested on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Draw = Callable[[np.random.Generator, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Source:
    """Data of one task.

    Attributes:
        draw: gives a mini-batch, (samples, tokens, features) or (samples, tokens) characters, and its targets.
        test_x: test samples, which no mini-batch contains.
        test_y: their targets.
    """

    draw: Draw
    test_x: Tensor
    test_y: Tensor


def from_tensors(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> Source:
    """Return a source that draws samples of a training set, with replacement."""

    def draw(generator: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        chosen = generator.integers(len(x), size=size)
        return x[chosen], y[chosen]

    return Source(draw, test_x, test_y)
