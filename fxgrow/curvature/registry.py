"""Scores by name: what a score is, the built-in ones, the two controls, and those that other packages add.

A package adds a score by an entry point in the group ``fxgrow.scores`` that names a subclass of `Score`:

    [project.entry-points."fxgrow.scores"]
    my-score = "my_package.scores:MyScore"
"""

import importlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import ClassVar

import torch
from torch import Tensor

from fxgrow.curvature.probe import Probe
from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import AnalysisError, did_you_mean
from fxgrow.graph.sites import Site

GROUP = "fxgrow.scores"

_BUILT_IN: dict[str, str] = {
    "eigen": "fxgrow.curvature.eigen:EigenScore",
    "branch": "fxgrow.curvature.eigen:BranchScore",
    "splitting": "fxgrow.curvature.eigen:SplittingScore",
    "quadratic": "fxgrow.curvature.eigen:QuadraticScore",
    "hessian": "fxgrow.curvature.hessian:HessianScore",
    "insertion": "fxgrow.curvature.first_order:InsertionScore",
    "gain": "fxgrow.curvature.gain:GainScore",
    "residual": "fxgrow.curvature.first_order:ResidualScore",
    "gradient": "fxgrow.curvature.first_order:GradientScore",
    "half-step": "fxgrow.curvature.half_steps:HalfStepScore",
    "half-step-gradient": "fxgrow.curvature.half_steps:HalfStepGradientScore",
    "half-step-hessian": "fxgrow.curvature.half_steps:HalfStepHessianScore",
    "paper": "fxgrow.curvature.first_order:PaperScore",
    "random": "fxgrow.curvature.registry:RandomScore",
    "uniform": "fxgrow.curvature.registry:UniformScore",
}
_MEND = "mend or uninstall the package that declares it"


@dataclass(frozen=True)
class Measurement:
    """What a score found: the sites that have one, and for the others the reason."""

    sites: Mapping[str, SiteScores]
    refusals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Score(ABC):
    """An analysis of the graph that gives every neuron of a site one number. Fields are options.

    Example:
        >>> @dataclass(frozen=True)
        ... class FanIn(Score):
        ...     '''The number of inputs of each neuron.'''
        ...     name: ClassVar[str] = "fan-in"
        ...     def measure(self, probe):
        ...         def same(site):
        ...             values = torch.full((site.neurons,), float(site.features), dtype=torch.float64)
        ...             return SiteScores(values, values, torch.zeros_like(values), sign=self.sign)
        ...         return Measurement({path: same(site) for path, site in probe.sites.items()})
    """

    #: the name by which `fxgrow.analyze` knows it
    name: ClassVar[str]
    #: +1 where a larger value asks for growth, -1 where a smaller one does
    sign: ClassVar[int] = 1

    @abstractmethod
    def measure(self, probe: Probe) -> Measurement:
        """Score the sites of `probe`, each with a result or a reason why it has none.

        Raises:
            AnalysisError: If the probe data does not allow it.
        """


def score_names() -> list[str]:
    """Return the names of all scores, the built-in ones first."""
    installed = {entry.name for entry in entry_points(group=GROUP)} - set(_BUILT_IN)
    return [*_BUILT_IN, *sorted(installed)]


def find_score(name: str) -> type[Score]:
    """Return the class of the score of that name.

    Raises:
        AnalysisError: If there is none, or the entry point of that name holds something else.
    """
    where = f"score {name!r}"
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
        if not entries:
            names = score_names()
            fix = f"{did_you_mean(name, names)}choose one of {', '.join(names)}"
            raise AnalysisError("no such score", where=where, fix=fix)
        found = _load(entries[0], where)
    if not (isinstance(found, type) and issubclass(found, Score)):
        what = "its entry point names no subclass of fxgrow.curvature.Score"
        raise AnalysisError(what, where=where, fix=_MEND)
    return found


def _load(entry: object, where: str) -> object:
    try:
        return entry.load()  # type: ignore[attr-defined]
    except (ImportError, AttributeError) as error:
        raise AnalysisError(f"its entry point cannot be loaded: {error}", where=where, fix=_MEND) from error


@dataclass(frozen=True)
class RandomScore(Score):
    """A number drawn uniformly from [0, 1) for each neuron, from the seed and the site's path alone."""

    name: ClassVar[str] = "random"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        return Measurement({path: _exactly(_drawn(site, probe.seed)) for path, site in probe.sites.items()})


@dataclass(frozen=True)
class UniformScore(Score):
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
