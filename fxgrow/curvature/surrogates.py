"""Functions of one number, told apart by their derivatives: straight, kinked (as ReLU), or curved."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Scalar = Callable[[Tensor], Tensor]

#: sharpness of the softplus that stands in for a kink, as in the published code of splitting steepest descent
SOFTPLUS_BETA = 3.0
_STEP = 1 / 16


def second_derivative(function: Scalar, z: Tensor) -> Tensor:
    """Return f''(z) elementwise, of the shape of `z`, by differentiating an elementwise `function` twice."""
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        z = z.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True, materialize_grads=True)
        if not first.requires_grad:
            return torch.zeros_like(z)
        (second,) = torch.autograd.grad(first.sum(), z, materialize_grads=True)
    return second.detach()


def is_curved(function: Scalar) -> bool:
    """Whether the second derivative is anything but zero somewhere in [-8, 8]."""
    return bool((second_derivative(function, _grid()) != 0).any())


@dataclass(frozen=True)
class Kink:
    """A point where the slope of a piecewise linear function changes."""

    position: float
    slope_change: float


def kinks(function: Scalar) -> tuple[Kink, ...]:
    """Return the kinks in [-8, 8] of a piecewise linear function, their positions rounded to sixteenths.

    Example:
        >>> kinks(torch.nn.functional.relu6)
        (Kink(position=0.0, slope_change=1.0), Kink(position=6.0, slope_change=-1.0))
    """
    grid = _grid().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(grid).sum(), grid, materialize_grads=True)
    change = slope[1:] - slope[:-1]
    places = change.abs().gt(1e-9).nonzero().flatten().tolist()
    positions = grid.detach() + _STEP / 2
    return tuple(Kink(float(positions[i]), float(change[i])) for i in places)


def smooth(kinks: tuple[Kink, ...]) -> Scalar:
    """Return ``sum_k s_k softplus(z - b_k)``: the kinks of a piecewise linear function, each made smooth.

    It differs from that function by a straight line and by the smoothing; its second derivative is
    ``sum_k s_k beta sigma'(beta (z - b_k))``.
    """

    def smooth_kinks(z: Tensor) -> Tensor:
        total = torch.zeros_like(z)
        for kink in kinks:
            total = total + kink.slope_change * F.softplus(z - kink.position, beta=SOFTPLUS_BETA)
        return total

    return smooth_kinks


def smooth_prelu(weight: Tensor) -> Scalar:
    """Return PReLU with its kink made smooth; `weight` holds one slope, or one for each channel (dimension 1)."""

    def smooth_kink(z: Tensor) -> Tensor:
        slope = weight.view(1, -1, *[1] * (z.ndim - 2)) if z.ndim > 1 else weight
        return slope * z + (1 - slope) * F.softplus(z, beta=SOFTPLUS_BETA)

    return smooth_kink


def _grid() -> Tensor:
    """Return points halfway between the sixteenths of [-8, 8], so that the kinks in use fall between two of them."""
    return torch.arange(-8 + _STEP / 2, 8, _STEP, dtype=torch.float64)
