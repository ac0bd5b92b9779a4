"""Scores that measure nothing, to compare with: a control shows whether a score matters."""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxgrow.curvature.probe import Probe
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.graph.sites import Site


@dataclass(frozen=True)
class Random(Score):
    """A number drawn uniformly from [0, 1) for each neuron, from the seed and the site's path alone."""

    name: ClassVar[str] = "random"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        return Measurement({path: _exactly(_drawn(site, probe.seed)) for path, site in probe.sites.items()})


@dataclass(frozen=True)
class Uniform(Score):
    """One for every neuron: nobody is preferred, and a plan takes the first rows of each site."""

    name: ClassVar[str] = "uniform"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        ones = {path: torch.ones(site.neurons, dtype=torch.float64) for path, site in probe.sites.items()}
        return Measurement({path: _exactly(values) for path, values in ones.items()})


def _drawn(site: Site, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(site.path.encode()))
    return torch.rand(site.neurons, generator=generator, dtype=torch.float64)


def _exactly(values: Tensor) -> SiteScores:
    return SiteScores(values, values, torch.zeros_like(values), sign=1)
