"""Kinds of growth by name: pseudo-layers on neurons, and half-steps of units; where each may go, and at what price."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import PlanError, did_you_mean
from fxgrow.graph.sites import Site
from fxgrow.growth.places import GrowthPlace
from fxgrow.operators import PseudoLayer, available_operators, known_operator
from fxgrow.passes.base import Pass
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.record.record import Evidence
from fxgrow.widths.branch_units import BranchUnits, find_branch_units

#: how far the halves of ``half-step-apart`` start from each other, in shares of the length of their weights
APART = 0.1


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of growth."""

    name: str
    preserves_function: bool
    nests: bool  #: whether sites inside pseudo-layers grow by default

    @abstractmethod
    def places(
        self, graph_module: fx.GraphModule, sites: Mapping[str, Site], scores: Mapping[str, SiteScores]
    ) -> tuple[dict[str, GrowthPlace], dict[str, str]]:
        """Return where it may grow among scored sites, and for the others the reason."""

    @abstractmethod
    def edit(
        self,
        chosen: Mapping[str, tuple[int, ...]],
        seed: int,
        directions: Mapping[str, Tensor] | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> Pass:
        """Return the pass that lets these neurons or units grow."""


@dataclass(frozen=True)
class PseudoLayers(Kind):
    """Pseudo-layers of one operator, on single neurons."""

    operator: type[PseudoLayer] = field(kw_only=True)

    def places(
        self, graph_module: fx.GraphModule, sites: Mapping[str, Site], scores: Mapping[str, SiteScores]
    ) -> tuple[dict[str, GrowthPlace], dict[str, str]]:
        """Return all sites."""
        return {path: self._place(site, scores[path]) for path, site in sites.items()}, {}

    def _place(self, site: Site, scores: SiteScores) -> GrowthPlace:
        def price(neurons: int) -> int:
            return self.operator.parameter_count(site.map, neurons)

        return GrowthPlace(site, scores.priority, price, (site.map, scores.eligible), torch.arange(site.neurons))

    def edit(
        self,
        chosen: Mapping[str, tuple[int, ...]],
        seed: int,
        directions: Mapping[str, Tensor] | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> InsertPseudoLayers:
        """Return the insertion."""
        return InsertPseudoLayers(chosen, self.name, seed, directions or {}, evidence or {})


@dataclass(frozen=True)
class HalfSteps(Kind):
    """Half-steps of hidden units and heads; a unit asks for growth as its rows do in the mean."""

    apart: float = field(kw_only=True)

    def places(
        self, graph_module: fx.GraphModule, sites: Mapping[str, Site], scores: Mapping[str, SiteScores]
    ) -> tuple[dict[str, GrowthPlace], dict[str, str]]:
        """Return the sites whose rows are units of residual branches."""
        known = find_branch_units(graph_module)
        found = {
            path: _place_of(site, known.found[path], scores[path])
            for path, site in sites.items()
            if path in known.found
        }
        return found, {path: known.refusals[path] for path in sites if path in known.refusals}

    def edit(
        self,
        chosen: Mapping[str, tuple[int, ...]],
        seed: int,
        directions: Mapping[str, Tensor] | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> InsertHalfSteps:
        """Return the insertion."""
        return InsertHalfSteps(chosen, self.apart, directions or {}, evidence or {})


def _place_of(site: Site, units: BranchUnits, scores: SiteScores) -> GrowthPlace:
    """Return the place, at which a unit has the mean priority of those of its rows that get a gradient."""
    owner, reached = units.rows[units.site], scores.priority > -torch.inf
    zeros = torch.zeros(units.count, dtype=torch.float64)
    counts = zeros.index_add(0, owner, reached.double())
    sums = zeros.index_add(0, owner, scores.priority.masked_fill(~reached, 0.0).double())
    priority = (sums / counts.clamp(min=1)).masked_fill(counts == 0, -torch.inf)
    alike = units.fixed, units.each, units.count, int((counts > 0).sum())
    return GrowthPlace(site, priority, units.price, alike, owner)


_HALF_STEPS = {
    name: HalfSteps(name, preserves_function=False, nests=False, apart=apart)
    for name, apart in (("half-step", 0.0), ("half-step-apart", APART))
}


def find_kind(name: str) -> Kind:
    """Return the kind of growth of that name.

    Raises:
        PlanError: If there is none.
    """
    if name in _HALF_STEPS:
        return _HALF_STEPS[name]
    operator = known_operator(name)
    if operator is None:
        names = [*available_operators(), *_HALF_STEPS]
        fix = f"{did_you_mean(name, names)}choose one of {', '.join(names)}"
        raise PlanError("no such operator", where=f"operator {name!r}", fix=fix)
    return PseudoLayers(name, preserves_function=True, nests=operator.reads == "input", operator=operator)
