"""MNIST-1D (Greydanus and Kobak, ICML 2024, arXiv 2011.14439), made by its own generator: 40,000 and 10,000 samples."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from study.sources.source import Source, from_tensors

_SAMPLES = 50_000
_CACHE = Path("runs/study/mnist1d.npz")


def source(tokens: int) -> Callable[[], Source]:
    """Return the loader of the samples as so many tokens; the 40 values are split evenly."""

    def load() -> Source:
        data = _data()
        x, test_x = (torch.from_numpy(data[key]).float().view(-1, tokens, 40 // tokens) for key in ("x", "x_test"))
        y, test_y = (torch.from_numpy(data[key]).long() for key in ("y", "y_test"))
        return from_tensors(x, y, test_x, test_y)

    return load


@cache
def _data() -> dict[str, np.ndarray]:
    """Generate the samples, or read those that an earlier run has generated."""
    if not _CACHE.exists():
        from mnist1d.data import get_dataset_args, make_dataset

        arguments = get_dataset_args()
        arguments.num_samples = _SAMPLES
        made = make_dataset(arguments)
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
        np.savez(_CACHE, **{key: made[key] for key in ("x", "y", "x_test", "y_test")})
    with np.load(_CACHE) as kept:
        return dict(kept)
