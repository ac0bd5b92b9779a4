"""The nonlinearities of pseudo-layers. All of them are zero at zero."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualGELU(nn.Module):
    """``phi(u) = u + GELU(u)``, the nonlinearity of the paper: phi'(0) = 3/2, phi''(0) = sqrt(2 / pi)."""

    def forward(self, u: Tensor) -> Tensor:
        """Apply phi to each element."""
        return u + F.gelu(u)


class EvenGELU(nn.Module):
    """``phi(u) = GELU(u) + GELU(-u) = u erf(u / sqrt 2)``: even, phi'(0) = 0, phi''(0) = 2 sqrt(2 / pi)."""

    def forward(self, u: Tensor) -> Tensor:
        """Apply phi to each element."""
        return u * torch.erf(u * math.sqrt(0.5))  # one error function in place of two
