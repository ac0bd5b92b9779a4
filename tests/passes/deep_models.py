"""Models whose blocks are deepened: with what may end a branch, with two linear maps, and with gates."""

import copy
import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow

Branch = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Attention and an MLP, each a branch, with what may end a branch."""

    def __init__(self, end: str = "linear", norm: str = "before") -> None:
        super().__init__()
        self.norm1, self.norm2, self.end1, self.end2 = (nn.LayerNorm(8) for _ in range(4))
        self.qkv, self.proj, self.fc1, self.fc2 = (nn.Linear(*s) for s in ((8, 24), (8, 8), (8, 12), (12, 8)))
        self.scale1, self.scale2 = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
        self.end, self.norm = end, norm

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def finish(self, x: Tensor, scale: Tensor, norm: nn.Module) -> Tensor:
        return {"linear": lambda: x, "scale": lambda: scale * x, "norm": lambda: norm(x)}[self.end]()

    def branches(self) -> list[Branch]:
        behind = [lambda x: self.attention(x), lambda x: self.mlp(x)]
        before = [lambda x: self.attention(self.norm1(x)), lambda x: self.mlp(self.norm2(x))]
        first, second = behind if self.norm == "behind" else before
        return [
            lambda x: self.finish(first(x), self.scale1, self.end1),
            lambda x: self.finish(second(x), self.scale2, self.end2),
        ]

    def steps(self, x: Tensor, size: float) -> Tensor:
        norms = [self.norm1, self.norm2] if self.norm == "behind" else [nn.Identity(), nn.Identity()]
        for branch, norm in zip(self.branches(), norms, strict=True):
            x = norm(x + size * branch(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x, 1.0) if self.norm == "never" else self._written_out(x)

    def _written_out(self, x: Tensor) -> Tensor:
        first, second = self.branches()
        x = x + first(x)
        x = self.norm1(x) if self.norm == "behind" else x
        x = x + second(x)
        return self.norm2(x) if self.norm == "behind" else x


class Model(nn.Module):
    """Two such blocks behind a norm."""

    def __init__(self, end: str = "linear", norm: str = "before") -> None:
        super().__init__()
        self.start, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(end, norm) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def make(**options: str) -> tuple[Model, fx.GraphModule, Tensor]:
    return copy.deepcopy(_made(**options))


@functools.cache
def _made(**options: str) -> tuple[Model, fx.GraphModule, Tensor]:
    draw = np.random.default_rng(0)
    model = Model(**options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.3 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    x = torch.from_numpy(draw.standard_normal((3, 5, 8)))
    return model, fxgrow.trace(model, x), x


CASES = [{"end": end, "norm": "before"} for end in ("linear", "scale", "norm")] + [{"end": "linear", "norm": "behind"}]


class LinearBlock(nn.Module):
    """A branch of two linear maps, which half-steps can follow exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


class Squeezed(nn.Module):
    """A branch that is gated by what its last linear map made."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return x + h * self.gate(h).sigmoid()
