"""Scores by name: what a score is, the built-in ones, and those that other packages add.

A package adds a score by an entry point in the group ``fxgrow.scores`` that names a subclass of `Score`:

    [project.entry-points."fxgrow.scores"]
    my-score = "my_package.scores:MyScore"
"""

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import ClassVar

from fxgrow.curvature.probe import Probe
from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import AnalysisError

GROUP = "fxgrow.scores"

_BUILT_IN: dict[str, str] = {
    "eigen": "fxgrow.curvature.eigen:Eigen",
    "branch": "fxgrow.curvature.eigen:Branch",
    "splitting": "fxgrow.curvature.eigen:Splitting",
    "quadratic": "fxgrow.curvature.eigen:Quadratic",
    "hessian": "fxgrow.curvature.hessian:Hessian",
    "insertion": "fxgrow.curvature.first_order:Insertion",
    "gain": "fxgrow.curvature.gain:Gain",
    "residual": "fxgrow.curvature.first_order:Residual",
    "gradient": "fxgrow.curvature.first_order:Gradient",
    "paper": "fxgrow.curvature.first_order:Paper",
    "random": "fxgrow.curvature.controls:Random",
    "uniform": "fxgrow.curvature.controls:Uniform",
}


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
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise AnalysisError("no such score", where=where, fix=f"{hint}choose one of {', '.join(names)}")
        found = _load(entries[0], where)
    if not (isinstance(found, type) and issubclass(found, Score)):
        raise AnalysisError("its entry point names no subclass of fxgrow.curvature.Score", where=where)
    return found


def _load(entry: object, where: str) -> object:
    try:
        return entry.load()  # type: ignore[attr-defined]
    except (ImportError, AttributeError) as error:
        fix = "mend or uninstall the package that declares it"
        raise AnalysisError(f"its entry point cannot be loaded: {error}", where=where, fix=fix) from error
