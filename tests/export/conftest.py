"""Models that grew twice, by an operator that reads outputs and by one that reads inputs, and were trained a bit."""

from collections.abc import Iterator

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.execution.snapshot import Snapshot

BATCH = 3


class ConvNet(nn.Module):
    """A stem with BatchNorm and an in-place activation, a residual block, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.conv, self.down = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = F.relu(self.down(x + self.conv(x))).mean((2, 3))
        return self.fc2(F.gelu(self.fc1(x)))


def transformer() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=5, drop_rate=0.1
    )


MODELS = {"convolutions": (ConvNet, (3, 8, 8)), "transformer": (transformer, (3, 32, 32))}


def grow(graph_module: fx.GraphModule, inputs: torch.Tensor, operator: str) -> fx.GraphModule:
    scores = fxgrow.analyze(graph_module, F.cross_entropy, [(inputs, torch.arange(BATCH))], score="random")
    return fxgrow.grow(graph_module, scores, budget=0.2, operator=operator)


@pytest.fixture(scope="session", params=MODELS)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def inputs(architecture) -> torch.Tensor:
    return torch.randn(BATCH, *MODELS[architecture][1], generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model(architecture) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[architecture][0]()


@pytest.fixture(scope="session")
def grown_once(model, inputs) -> fx.GraphModule:
    once = grow(fxgrow.trace(model, inputs), inputs, "serial")
    twice = grow(once, inputs, "branch")
    optimizer = torch.optim.SGD(twice.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twice(inputs), torch.arange(BATCH)).backward()
        optimizer.step()
    return twice.eval()


@pytest.fixture
def grown(grown_once, model) -> Iterator[fx.GraphModule]:
    """What has grown, for a test to do with as it likes: the next one finds it as it was."""
    before = Snapshot((model, grown_once))
    yield grown_once
    before.restore()
