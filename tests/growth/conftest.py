"""A small model with handmade scores: what a plan does must not depend on how scores are measured."""

from collections.abc import Callable

import pytest
import torch
import torch.fx as fx
from torch import nn

from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.graph.sites import find_sites
from fxgrow.record.digest import digest


class Network(nn.Module):
    """A convolutional stem, two hidden layers with an in-place activation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3)
        self.fc1, self.fc2, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).mean((2, 3))
        return self.head(self.drop(self.fc2(self.act(self.fc1(x)))))


def _handmade_scores(graph_module: fx.GraphModule, *, vectors: bool = True) -> Scores:
    """Neuron i of every site has the held-out eigenvalue -i."""
    sites = {}
    for path, site in find_sites(graph_module).items():
        values = -torch.arange(site.neurons, dtype=torch.float64)
        eigenvectors = torch.eye(site.neurons, site.features, dtype=torch.float64) if vectors else None
        sites[path] = SiteScores(values, values, torch.full_like(values, 0.5), "branch", eigenvectors)
    return Scores(sites, "eigen", digest(graph_module), samples=256)


@pytest.fixture
def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fx.symbolic_trace(Network())


@pytest.fixture
def scores(traced: fx.GraphModule) -> Scores:
    return _handmade_scores(traced)


@pytest.fixture
def handmade_scores() -> Callable[..., Scores]:
    return _handmade_scores
