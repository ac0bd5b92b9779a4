"""Scores of half-steps: what there is to gain from letting the two halves of a unit move apart.

All are measured on the *doubled* model, in which every unit of every branch has two half-steps
(`fxgrow.passes.insert_half_steps`), so that one pass over the data serves all blocks and units. With t1 = t + e v and
t2 = t - e v the incoming weights of a unit's halves,

    first order     dL/de   = (g1 - g2)^T v                      g1, g2 the gradients of the halves
    second order    d2L/de2 = v^T (S1 + S2) v + ...              S1, S2 their splitting matrices

where the rest is the curvature that the loss has in the outputs, and what one half does to the input of the other; it
vanishes against the first term as branches become small (`docs/curvature.md`). `HalfStepHessianScore` has all of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.fx as fx

from fxgrow.curvature.eigen import measure_eigenvalues, splittable
from fxgrow.curvature.first_order import measure_norms
from fxgrow.curvature.hessian import measure_hessians
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.execution.shapes import has_shape, propagate_shapes
from fxgrow.graph.sharing import share
from fxgrow.graph.sites import Site, find_sites
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.record.provenance import provenance_of
from fxgrow.widths.branch_units import find_branch_units


@dataclass(frozen=True)
class HalfStepScore(Score):
    """The least eigenvalue of ``S1 + S2``, the splitting matrices of the two halves of each hidden unit.

    Where it is negative the halves escape from each other along +v and -v, its eigenvector, from which
    ``operator="half-step-apart"`` starts. The held-out quotient and its error are those of an eigen-score.
    """

    name: ClassVar[str] = "half-step"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score the hidden units that an activation of their own follows."""
        doubled = _Doubled.of(probe)
        readings, unsplittable = splittable(doubled.probe.graph_module, doubled.probe.sites)
        return measure_eigenvalues(doubled.probe, readings, {**doubled.refusals, **unsplittable})


@dataclass(frozen=True)
class HalfStepGradientScore(Score):
    """The norm of the difference of the halves' gradients ``|g1 - g2|``, at the incoming weights of each row.

    The held-out value is the slope along the direction of the other half of the data. A linear branch has such a
    difference too, and gains nothing by it: this is no measure of gain by itself.
    """

    name: ClassVar[str] = "half-step-gradient"

    def measure(self, probe: Probe) -> Measurement:
        """Score the rows of all units, of heads too."""
        doubled = _Doubled.of(probe)
        readings = [replace(Reading.branch(pair), signs=(1, -1)) for pair in doubled.probe.sites.values()]
        found = measure_norms(doubled.probe, readings, sign=1)
        return Measurement(found.sites, {**doubled.refusals, **found.refusals})


@dataclass(frozen=True)
class HalfStepHessianScore(Score):
    """The least eigenvalue of the whole of d2L/de2: of ``H11 - H12 - H21 + H22`` over the halves of each row.

    It takes second derivatives, and as many products as `fxgrow.curvature.hessian.HessianScore` does: for small models,
    and for checking the others.

    Args:
        signs: As for `fxgrow.curvature.hessian.HessianScore`.
    """

    name: ClassVar[str] = "half-step-hessian"
    sign: ClassVar[int] = -1

    signs: int = 1024

    def measure(self, probe: Probe) -> Measurement:
        """Score the rows of all units.

        Raises:
            AnalysisError: If an operation of the model has no second derivative.
        """
        doubled = _Doubled.of(probe)
        coordinates = {path: {pair.weight: 1.0, doubled.copies[path].weight: -1.0} for path, pair in doubled.pairs}
        found = measure_hessians(doubled.probe, coordinates, self.signs)
        return Measurement(found.sites, {**doubled.refusals, **found.refusals})


@dataclass(frozen=True, eq=False)
class _Doubled:
    """The doubled model, in which the halves of a unit's site are two calls of one site."""

    probe: Probe
    copies: Mapping[str, Site]  #: the sites of the second halves, by those of the first
    refusals: Mapping[str, str]  #: the sites that have no units

    @property
    def pairs(self) -> list[tuple[str, Site]]:
        """The sites of both halves, by their path."""
        return list(self.probe.sites.items())

    @classmethod
    def of(cls, probe: Probe) -> "_Doubled":
        """Double the model of a probe; its parameters are shared but for the last maps of branches."""
        graph_module = _with_shapes(probe)
        known = find_branch_units(graph_module)
        units = {path: tuple(range(known.found[path].count)) for path in probe.sites if path in known.found}
        if units:
            graph_module = InsertHalfSteps(units)(graph_module, check=False).graph_module
        sites, copies = find_sites(graph_module), _copies(graph_module) if units else {}
        pairs = {path: replace(sites[path], calls=(*sites[path].calls, *copies[path].calls)) for path in units}
        refusals = {path: known.refusals[path] for path in probe.sites if path in known.refusals}
        doubled = replace(probe, graph_module=graph_module, sites=pairs)
        return cls(doubled, copies, refusals)


def _with_shapes(probe: Probe) -> fx.GraphModule:
    """Return the model of a probe with shapes on its nodes, those of the first batch where it has none."""
    if all(has_shape(node) for node in probe.graph_module.graph.nodes if node.op not in ("placeholder", "output")):
        return probe.graph_module
    shaped = share(probe.graph_module)
    propagate_shapes(shaped, probe.batches[0].inputs)
    return shaped


def _copies(graph_module: fx.GraphModule) -> dict[str, Site]:
    """Return the sites of the second halves that the last edit made, by those of the first."""
    sites, last = find_sites(graph_module), max(_edits(graph_module))
    made = [provenance for node in graph_module.graph.nodes if (provenance := provenance_of(node))]
    blocks = [provenance.block for provenance in made if provenance.edit == last and provenance.block]
    return {repeat.site: sites[repeat.copy] for block in blocks for repeat in block.repeats}


def _edits(graph_module: fx.GraphModule) -> list[int]:
    return [made.edit for node in graph_module.graph.nodes if (made := provenance_of(node))]
