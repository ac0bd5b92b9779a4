"""A small model with dropout, BatchNorm and two kinds of sites, and a loop that trains it."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import fxgrow
from fxgrow.testing import Draws


class Block(nn.Module):
    """A residual block; a plain one computes each sample by itself, and the same each time."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.norm, self.fc1, self.act = (nn.LayerNorm if plain else nn.BatchNorm1d)(6), nn.Linear(6, 8), nn.GELU()
        self.drop, self.fc2 = nn.Dropout(0.0 if plain else 0.2), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.drop(self.act(self.fc1(self.norm(x)))))


class Net(nn.Module):
    """Two blocks, a parameter of its own at the root, and a head."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.blocks, self.head = nn.Sequential(Block(plain), Block(plain)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x * self.scale))


def traced(dtype: torch.dtype = torch.float64, *, plain: bool = False) -> torch.fx.GraphModule:
    """Return the traced model, a copy of its own each time."""
    return copy.deepcopy(_traced_once(dtype, plain))


@functools.cache
def _traced_once(dtype: torch.dtype, plain: bool) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = Net(plain).to(dtype)
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(Draws(place, dtype=dtype).normal(*parameter.shape) / 2)
    return fxgrow.trace(model, torch.ones(2, 6, dtype=dtype))


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the batch of a step: inputs ``(16, 6)`` and labels."""
    inputs = Draws(1000 + step, dtype=dtype).normal(16, 6)
    return inputs, inputs[:, :3].argmax(1)


def probe(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Return data for an analysis."""
    return [batch(-1 - index, dtype) for index in range(2)]


def train(
    model: nn.Module,
    optimizers: tuple[Optimizer, ...],
    steps: range,
    *,
    data: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    after: Callable[[int, Tensor], Any] | None = None,
) -> None:
    """Train for some steps; `data` returns the batch of each, and `after` is called with each and its loss."""
    for step in steps:
        inputs, labels = data(step) if data else batch(step, next(model.parameters()).dtype)

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        if isinstance(optimizers[0], torch.optim.LBFGS):
            loss = optimizers[0].step(closure)
        else:
            loss = closure()
            for optimizer in optimizers:
                optimizer.step()
        if after is not None:
            after(step, loss.detach())
