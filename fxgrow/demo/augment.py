"""Light augmentation of digits: a small rotation and a small shift."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, *, degrees: float = 10, pixels: float = 2) -> Tensor:
    """Rotate and shift every image by its own random amount.

    Args:
        images: ``(batch, channels, height, width)``.
        generator: Where the randomness comes from.
        degrees: Largest rotation, either way.
        pixels: Largest shift, either way.
    """
    count, size = len(images), images.shape[-1]
    angle = math.radians(degrees) * _symmetric(count, generator)
    shift = 2 * pixels / size * torch.stack([_symmetric(count, generator) for _ in range(2)], dim=1)
    cosine, sine = angle.cos(), angle.sin()
    rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(count, 2, 2)
    grid = F.affine_grid(torch.cat([rotation, shift.unsqueeze(2)], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * 2 - 1
