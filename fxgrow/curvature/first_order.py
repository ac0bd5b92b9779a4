"""Scores from first derivatives alone: gradients, cross moments, residual energy, and the published code's score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxgrow.curvature.matrices import UNSPLIT, CapturedCall, CurvatureMatrices, in_halves
from fxgrow.curvature.probe import Probe, each_batch, solving
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.statistics import joined, mean_and_error, spearman
from fxgrow.execution.ranks import Ranks

#: values of single parts ``(parts, neurons)`` and the samples in each, for either half
PartValues = tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class GradientScore(Score):
    """The norm of the gradient of each row of the weight, ``|g_i|`` with ``g_i = 1/N sum_t delta_it x_t``.

    The held-out value is the slope along the direction of the other half's gradient.
    """

    name: ClassVar[str] = "gradient"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        return measure_norms(probe, [Reading.branch(site) for site in probe.sites.values()], sign=1)


@dataclass(frozen=True)
class InsertionScore(Score):
    """The least eigenvalue of the Hessian of a layer ``h + W2 phi(W1 h)`` inserted at W1 = W2 = 0, for phi'(0) = 1.

        M = 1/N sum_t delta_t h_t^T            H_j = [[0, m_j], [m_j^T, 0]]            lambda = -|m_j|

    with h the site's features (behind its activation, if it has one), delta = dL/dh and m_j the row of feature j. After
    zero-initialising one side, the singular vectors of M maximise the other side's gradient (GradMax, Evci et al. 2022,
    eq. 6).
    """

    name: ClassVar[str] = "insertion"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings = [Reading.of_features(probe.graph_module, site) for site in probe.sites.values()]
        return measure_norms(probe, readings, sign=-1)


@dataclass(frozen=True)
class ResidualScore(Score):
    """The residual energy ``1/N sum_n sum_t delta_it^2``: the second moment of the loss's gradient at the neuron.

    delta is the gradient of a sample's own loss; the positions of one sample add up.
    """

    name: ClassVar[str] = "residual"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings = [Reading.branch(site) for site in probe.sites.values()]
        values: dict[Reading, PartValues] = {reading: ([], []) for reading in readings}
        refusals: dict[str, str] = {}
        for seen in each_batch(probe, readings):
            for reading, captured in seen.items():
                halves = in_halves(probe.halves, captured)
                if halves is None:
                    refusals[reading.site.path] = UNSPLIT
                for half, members in halves or []:
                    values[reading][half].append(_energy(reading, members))
        sites = {
            reading.site.path: scores_of_means(found, reading.map.neurons, probe.ranks, sign=1)
            for reading, found in values.items()
            if reading.site.path not in refusals
        }
        return Measurement(sites, refusals)


@dataclass(frozen=True)
class PaperScore(Score):
    """What the published code calls an eigenvalue: ``min(0, sum_d g_id)``, g the last mini-batch's weight gradient.

    That is the least eigenvalue of the rank-one matrix 1 g_i^T, which is no curvature of the loss; it is here for
    comparison. As published there is no held-out value; the error is that of the mean over batches.
    """

    name: ClassVar[str] = "paper"
    sign: ClassVar[int] = -1

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings = [Reading.branch(site) for site in probe.sites.values()]
        found: dict[str, list[Tensor]] = {reading.site.path: [] for reading in readings}
        for seen in each_batch(probe, readings):
            for reading, captured in seen.items():
                with solving(probe):
                    gradient = CurvatureMatrices(reading.map, tuple(captured)).gradient()
                found[reading.site.path].append(gradient.sum(1).clamp(max=0).double().cpu())
        ranks = probe.ranks.gather(found)
        batches = {path: torch.stack([value for rank in ranks for value in rank[path]]) for path in found}
        return Measurement({path: self._scores(values) for path, values in batches.items()})

    def _scores(self, batches: Tensor) -> SiteScores:
        count = len(batches)
        error = batches.std(0) / count**0.5 if count > 1 else torch.zeros_like(batches[0])
        reliability = spearman(batches[0], batches[-1]) if count > 1 else None
        return SiteScores(batches[-1], batches[-1], error, sign=self.sign, reliability=reliability)


def measure_norms(probe: Probe, readings: Sequence[Reading], *, sign: int) -> Measurement:
    """Score each neuron by the norm of its cross moment, times `sign`.

    The moments of both halves are summed in a first pass; a second pass projects each sample's moment on the direction
    of the half that the sample is not in, which gives a held-out value without bias and its standard error.
    """
    moments, refusals = _summed_moments(probe, readings)
    crossed: dict[Reading, PartValues] = {reading: ([], []) for reading in moments}
    for seen in each_batch(probe, list(moments)):
        for reading, captured in seen.items():
            for half, members in in_halves(probe.halves, captured) or []:
                direction = torch.nn.functional.normalize(moments[reading].sums[1 - half], dim=1)
                with solving(probe):
                    slopes = CurvatureMatrices(reading.map, tuple(members)).slopes(direction)
                crossed[reading][half].append(slopes)
    sites = {r.site.path: _norm_scores(found, crossed[r], sign, probe.ranks) for r, found in moments.items()}
    return Measurement(sites, refusals)


@dataclass
class _Moments:
    """Cross moments of one site, summed over the samples of either half."""

    sums: tuple[Tensor, Tensor]
    samples: int = 0

    def over(self, ranks: Ranks) -> "_Moments":
        """Return the sums over all ranks."""
        return _Moments((ranks.sum(self.sums[0]), ranks.sum(self.sums[1])), ranks.total(self.samples))


def _summed_moments(probe: Probe, readings: Sequence[Reading]) -> tuple[dict[Reading, _Moments], dict[str, str]]:
    moments: dict[Reading, _Moments] = {}
    refusals: dict[str, str] = {}
    for seen in each_batch(probe, readings):
        for reading, captured in seen.items():
            halves = in_halves(probe.halves, captured)
            if halves is None:
                refusals[reading.site.path] = UNSPLIT
            for half, members in halves or []:
                data = CurvatureMatrices(reading.map, tuple(members))
                with solving(probe):
                    total = data.gradient() * data.samples
                found = moments.setdefault(reading, _Moments((torch.zeros_like(total), torch.zeros_like(total))))
                found.sums[half].add_(total)
                found.samples += data.samples
    return {reading: found.over(probe.ranks) for reading, found in moments.items()}, refusals


def _norm_scores(moments: _Moments, crossed: PartValues, sign: int, ranks: Ranks) -> SiteScores:
    whole = torch.linalg.vector_norm(moments.sums[0] + moments.sums[1], dim=1).double().cpu() / moments.samples
    halves = [torch.linalg.vector_norm(total, dim=1).double().cpu() for total in moments.sums]
    mean, error = mean_and_error([joined(half, len(whole)) for half in crossed], ranks)
    return SiteScores(sign * whole, sign * mean, error, sign=sign, reliability=spearman(*halves))


def _energy(reading: Reading, captured: Sequence[CapturedCall]) -> tuple[Tensor, Tensor]:
    """Return the mean over samples of each part's sum of squared gradients, and the samples of each part."""
    total: Tensor | None = None
    for call in captured:
        squared = call.coefficients.square().movedim(reading.map.channel_dim, -1)
        energy = squared.reshape(call.parts, -1, reading.map.neurons).sum(1).double().cpu()
        total = energy if total is None else total + energy
    assert total is not None  # a site has at least one call
    per_part = captured[0].samples / captured[0].parts
    return total / per_part, torch.full((len(total),), per_part, dtype=torch.float64)


def scores_of_means(values: PartValues, neurons: int, ranks: Ranks, *, sign: int) -> SiteScores:
    """Return scores that are plain means over samples: nothing is fitted, so value and held-out value are the same."""
    mean, error = mean_and_error([joined([*values[0], *values[1]], neurons)], ranks)
    halves = [mean_and_error([joined(half, neurons)], ranks)[0] for half in values]
    return SiteScores(mean, mean, error, sign=sign, reliability=spearman(*halves))
