"""The models that are measured, and made-up scores to grow them by."""

from collections.abc import Iterable

import timm
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.sites import find_sites
from fxgrow.record.digest import digest


def deit(size: str, batch: int, **options: object) -> tuple[nn.Module, fx.GraphModule, Tensor]:
    """Return a DeiT for 224 x 224 images, its trace, and a batch."""
    torch.manual_seed(0)
    model = timm.create_model(f"deit_{size}_patch16_224", **options)
    images = torch.randn(batch, 3, 224, 224)
    return model, fxgrow.trace(model, images), images


def small_transformer(blocks: int, width: int = 16) -> fx.GraphModule:
    """Return a plain transformer, traced with shapes."""
    torch.manual_seed(0)
    return _traced(nn.Sequential(nn.Linear(width, width), *_of(Block, blocks, width), nn.Linear(width, 4)), width)


def deep_mlp(blocks: int, width: int = 16) -> fx.GraphModule:
    """Return a deep residual MLP, traced with shapes."""
    torch.manual_seed(0)
    return _traced(nn.Sequential(nn.Linear(width, width), *_of(Residual, blocks, width), nn.Linear(width, 4)), width)


class Residual(nn.Module):
    """``x + fc2(GELU(fc1(norm(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(width), nn.GELU()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Block(nn.Module):
    """One transformer block with a single head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Residual(width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention and the MLP."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.mlp(x + self.proj(F.scaled_dot_product_attention(q, k, v)))


def random_scores(
    graph_module: fx.GraphModule, sites: Iterable[str] | None = None, *, seed: int = 0, eigenvectors: bool = False
) -> Scores:
    """Return scores that are random numbers, for all sites or for some."""
    found, generator = find_sites(graph_module), torch.Generator().manual_seed(seed)
    entries = {}
    for path in found if sites is None else sites:
        site = found[path]
        values = -torch.rand(site.neurons, generator=generator, dtype=torch.float64)
        vectors = torch.randn(site.neurons, site.features, generator=generator) if eigenvectors else None
        entries[path] = SiteScores(values, values, torch.full_like(values, 0.01), eigenvectors=vectors)
    return Scores(entries, "random", digest(graph_module), samples=1)


def _of(kind: type[nn.Module], blocks: int, width: int) -> list[nn.Module]:
    return [kind(width) for _ in range(blocks)]


def _traced(model: nn.Module, width: int) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(model)
    propagate_shapes(graph_module, torch.zeros(2, 8, width))
    return graph_module
