"""Models of which chosen units and heads get half-steps."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow

WIDTH, HIDDEN, HEADS = 8, 12, 2


class Block(nn.Module):
    """An attention and an MLP, one after the other or side by side, a scale or nothing at their ends."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def heads(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v)

    def hidden(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.fc1(x) if self.layout == "gated" else F.gelu(self.fc1(x))

    def end(self, x: Tensor) -> Tensor:
        return self.scale * x if self.layout == "scaled" else x

    def attention(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        heads = self.heads(x) if weights is None else self.heads(x) * weights[:, None, None]
        return self.end(F.linear(heads.transpose(1, 2).flatten(2), self.proj.weight))

    def mlp(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        hidden = self.hidden(x) if weights is None else self.hidden(x) * weights
        return self.end(F.linear(hidden, self.fc2.weight))

    def forward(self, x: Tensor) -> Tensor:
        attention, mlp = (
            lambda x: self.end(self.proj(self.heads(x).transpose(1, 2).flatten(2))),
            lambda x: self.end(self.fc2(self.hidden(x))),
        )
        if self.layout == "parallel":
            return mlp(self.norm2(x)) + attention(self.norm1(x)) + x
        if self.layout == "behind":
            x = self.norm1(x + attention(x))
            return self.norm2(x + mlp(x))
        x = x + attention(self.norm1(x))
        return x + mlp(self.norm2(x))


class Model(nn.Module):
    """Two such blocks behind a norm."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.start, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList([Block(layout) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def filled(model: nn.Module, draw: np.random.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.3 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    return model


def make(layout: str = "serial") -> tuple[Model, fx.GraphModule, Tensor]:
    draw = np.random.default_rng(0)
    model = filled(Model(layout).double(), draw)
    x = torch.from_numpy(draw.standard_normal((3, 5, WIDTH)))
    return model, fxgrow.trace(model, x), x


def shares(count: int, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return what the units add in their own branch and in the thin one, in shares of what they did."""
    thin = torch.zeros(count, dtype=torch.float64)
    thin[list(chosen)] = 0.5
    return 1 - thin, thin
