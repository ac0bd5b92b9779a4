"""Small models of residual blocks, with numbers that do not depend on the processor."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.progressive import Progressive


class Block(nn.Module):
    """A residual MLP behind a norm, with a dropout whose rate is zero unless it is set."""

    def __init__(self, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.fc2(F.gelu(self.fc1(self.norm(x)))))


class Model(nn.Module):
    """Some of these blocks between two linear maps."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Set all parameters to numpy's random numbers."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / np.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.from_numpy(scale * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    return module


def model(blocks: int = 4) -> nn.Module:
    """Return a model in double precision."""
    return fill(Model(blocks).double())


def data(count: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return inputs and targets."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.standard_normal((count, 5))), torch.from_numpy(draw.integers(0, 3, count))


def train(growing: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> list[float]:
    """Make some steps and return the losses."""
    losses = []
    for step in range(steps):
        inputs, target = data(seed=seed + step)
        optimizer.zero_grad()
        loss = F.cross_entropy(growing(inputs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def halves(whole: nn.Module, depth: float = 0.5) -> Progressive:
    return Progressive(whole, data()[0], depth=depth)
