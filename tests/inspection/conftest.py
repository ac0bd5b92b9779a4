import io

import pytest
import torch
from rich.console import Console
from torch import nn

import fxgrow
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.graph.sites import find_sites
from fxgrow.passes import parse
from fxgrow.record.digest import digest


class Block(nn.Module):
    """A residual block with a functional norm, as timm's trace has them."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.fc2(self.drop(self.act(self.fc1(self.norm(x)))))


class Stack(nn.Module):
    def __init__(self, blocks=4, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, width))
        self.position = nn.Parameter(torch.zeros(1, 3, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 6, bias=False)

    def forward(self, x):
        x = self.stem(x) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def annotate_scores(graph_module, values=None):
    """Write scores that grow by one thousandth from neuron to neuron, -0.001 being the first."""
    sites = {}
    for path, site in find_sites(graph_module).items():
        found = -0.001 * torch.arange(1, site.neurons + 1, dtype=torch.float64)
        sites[path] = SiteScores(found, found / 2, torch.full_like(found, 0.001), matrix="branch", reliability=0.5)
    Scores(sites, score="eigen", digest=digest(graph_module), samples=256).annotate(graph_module)


@pytest.fixture
def base():
    torch.manual_seed(0)
    return fxgrow.trace(Stack(), torch.randn(2, 3, 6), check=False)


@pytest.fixture
def grown(base):
    """The first block's fc1 grew on 2 rows, and inside its pseudo-layer on 1; blocks 1 and 2 grew alike."""
    text = (
        'insert-pseudo-layers{rows={"blocks.0.fc1":[0,3],"blocks.1.fc2":[1],"blocks.2.fc2":[1]} operator="serial"},'
        'insert-pseudo-layers{rows={"blocks.0.fc1_pseudo_0.fc1":[0]} operator="branch"}'
    )
    return parse(text)(base).graph_module


@pytest.fixture
def draw():
    def draw(renderable, width=80, encoding="utf-8", color=False):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding)
        console = Console(file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None)
        console.print(renderable)
        stream.flush()
        return raw.getvalue().decode(encoding)

    return draw
