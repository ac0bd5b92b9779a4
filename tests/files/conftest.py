import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.graph.sites import find_sites
from fxgrow.record.digest import digest


def make_mlp():
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 3))


def random_scores(graph_module, seed=0):
    """Scores that no analysis measured, on every site."""
    generator = torch.Generator().manual_seed(seed)
    sites = {}
    for path, site in find_sites(graph_module).items():
        values = -torch.rand(site.neurons, generator=generator, dtype=torch.float64)
        sites[path] = SiteScores(values, values / 2, torch.full_like(values, 0.1), matrix="branch", reliability=0.5)
    scores = Scores(sites, score="eigen", digest=digest(graph_module), samples=256)
    scores.annotate(graph_module)
    return scores


def grow_randomly(graph_module, budget=0.2, seed=0):
    """Grow by random scores, and move every parameter, as training would."""
    grown = fxgrow.grow(graph_module, random_scores(graph_module, seed), budget=budget, context={"epoch": 3})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter))
    return grown


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return make_mlp()


@pytest.fixture
def grown(mlp):
    return grow_randomly(fxgrow.trace(mlp, torch.randn(4, 6)))


@pytest.fixture
def saved(grown, tmp_path):
    path = tmp_path / "model.pt"
    fxgrow.save(grown, path)
    return path
