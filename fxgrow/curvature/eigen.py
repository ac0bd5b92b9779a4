"""Eigen-scores: the least eigenvalue of each neuron's curvature, by batched Lanczos on captured tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.curvature.cross_fit import CrossFit, cross_fit
from fxgrow.curvature.elementwise import region_after
from fxgrow.curvature.lanczos import Wanted
from fxgrow.curvature.matrices import CurvatureMatrices, split_in_halves
from fxgrow.curvature.probe import Probe, captured_groups, solving
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.graph.sites import Site


@dataclass(frozen=True)
class BranchScore(Score):
    """The least eigenvalue of the *branch matrix*, the curvature that a pseudo-layer phi(A x) finds at A = 0.

        S_i = 1/N sum_t delta_it x_t x_t^T            delta = dL/dO for the sum of the samples' losses

    This is the part of d2L/dA_i^2 that is not the layer's own curvature, for phi''(0) = 1. An operator with another
    phi''(0) scales all of it by that: the score depends on no operator.
    """

    name: ClassVar[str] = "branch"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        return measure_eigenvalues(probe, [Reading.branch(site) for site in probe.sites.values()], {})


@dataclass(frozen=True)
class SplittingScore(Score):
    """The least eigenvalue of the *splitting matrix* (Wu, Wang and Liu 2019, eq. 5) of neurons with an activation.

        S_i = 1/N sum_t (dL/da_it) act''(z_it) x_t x_t^T          a = act(z), z = W x + b

    Splitting neuron i into theta +- eps v, with half of the outgoing weight each, changes the loss by
    ``eps^2 / 2 v^T S_i v + O(eps^4)``. BatchNorm in eval mode between map and activation takes part; for ReLU and other
    piecewise linear functions a softplus of beta = 3 stands in. Sites without an activation of their own are refused.
    """

    name: ClassVar[str] = "splitting"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score the sites that can be split."""
        readings, refusals = splittable(probe.graph_module, probe.sites)
        return measure_eigenvalues(probe, readings, refusals)


@dataclass(frozen=True)
class EigenScore(Score):
    """The splitting matrix's least eigenvalue where an activation follows the site, the branch matrix's elsewhere."""

    name: ClassVar[str] = "eigen"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings, unsplittable = splittable(probe.graph_module, probe.sites)
        others = [Reading.branch(probe.sites[path]) for path in unsplittable]
        return measure_eigenvalues(probe, [*readings, *others], {})


@dataclass(frozen=True)
class QuadraticScore(Score):
    """The largest absolute eigenvalue of the branch matrix ``S_i = 1/N sum_t delta_it x_t x_t^T``.

    A quadratic feature of the input, with either sign of its coefficient, changes the loss fastest along its vector.
    The held-out quotient is positive where the other half of the data agrees in sign.
    """

    name: ClassVar[str] = "quadratic"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings = [Reading.branch(site) for site in probe.sites.values()]
        return measure_eigenvalues(probe, readings, {}, wanted="largest")


def measure_eigenvalues(
    probe: Probe, readings: Iterable[Reading], refusals: Mapping[str, str], *, wanted: Wanted = "least"
) -> Measurement:
    """Find one extreme eigenvalue of each neuron's matrix.

    Args:
        probe: What to measure on.
        readings: The sites to score, and by which matrix.
        refusals: Sites that were refused before, by path.
        wanted: Which eigenvalue.

    Raises:
        AnalysisError: If the loss or a gradient is not finite, or one site's input does not fit the memory.
    """
    found: dict[str, list[CrossFit]] = {}
    matrices: dict[str, str] = {}
    for group in captured_groups(probe, readings):
        while group:
            reading, captured = group.pop(0)
            path = reading.site.path
            halves = split_in_halves(captured, probe.halves)
            del captured
            parts = [CurvatureMatrices(reading.map, half, probe.ranks) for half in halves]
            found.setdefault(path, []).append(_solve(probe, parts, wanted))
            matrices[path] = reading.matrix
            del halves, parts
    sign = -1 if wanted == "least" else 1
    scores = {path: CrossFit.join(parts).scores(sign=sign, matrix=matrices[path]) for path, parts in found.items()}
    return Measurement({path: scores[path] for path in probe.sites if path in scores}, refusals)


def splittable(graph_module: fx.GraphModule, sites: Mapping[str, Site]) -> tuple[list[Reading], dict[str, str]]:
    """Return how to read the splitting matrix where there is one, and elsewhere the reason why there is none."""
    readings: list[Reading] = []
    refusals: dict[str, str] = {}
    for path, site in sites.items():
        regions = [region_after(graph_module, call) for call in site.calls]
        reasons = [region for region in regions if isinstance(region, str)]
        if reasons:
            refusals[path] = f"not splittable: {reasons[0]}"
        else:
            readings.append(Reading.splitting(site, tuple(r for r in regions if not isinstance(r, str))))
    return readings, refusals


def _solve(probe: Probe, halves: list[CurvatureMatrices], wanted: Wanted) -> CrossFit:
    with solving(probe):
        return cross_fit(halves, iterations=probe.iterations, seed=probe.seed, wanted=wanted, settled=probe.settled)
