"""Scores from first derivatives alone: gradients, cross moments, residual energy, and the published code's score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxgrow.curvature.cross_fit import mean_and_error
from fxgrow.curvature.matrices import CurvatureMatrices, Piece
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.streams import UNSPLIT, UnitValues, each_batch, in_halves, scores_of_means, solving


@dataclass(frozen=True)
class Gradient(Score):
    """The norm of the gradient of each row of the weight, ``|g_i|`` with ``g_i = 1/N sum_t delta_it x_t``.

    The held-out value is the slope along the direction of the other half's gradient.
    """

    name: ClassVar[str] = "gradient"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        return measure_norms(probe, [Reading.branch(site) for site in probe.sites.values()], sign=1)


@dataclass(frozen=True)
class Insertion(Score):
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
class Residual(Score):
    """The residual energy ``1/N sum_n sum_t delta_it^2``: the second moment of the loss's gradient at the neuron.

    delta is the gradient of an image's own loss; the positions of one image add up.
    """

    name: ClassVar[str] = "residual"

    def measure(self, probe: Probe) -> Measurement:
        """Score every site."""
        readings = [Reading.branch(site) for site in probe.sites.values()]
        values: dict[Reading, UnitValues] = {reading: ([], []) for reading in readings}
        refusals: dict[str, str] = {}
        for seen in each_batch(probe, readings):
            for reading, pieces in seen.items():
                halves = in_halves(probe.batches, pieces)
                if halves is None:
                    refusals[reading.site.path] = UNSPLIT
                for half, members in halves or []:
                    values[reading][half].append(_energy(reading, members))
        sites = {r.site.path: scores_of_means(v, sign=1) for r, v in values.items() if r.site.path not in refusals}
        return Measurement(sites, refusals)


@dataclass(frozen=True)
class Paper(Score):
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
            for reading, pieces in seen.items():
                with solving(probe):
                    gradient = CurvatureMatrices(reading.map, tuple(pieces)).gradient()
                found[reading.site.path].append(gradient.sum(1).clamp(max=0).double().cpu())
        return Measurement({path: self._scores(torch.stack(batches)) for path, batches in found.items()})

    def _scores(self, batches: Tensor) -> SiteScores:
        count = len(batches)
        error = batches.std(0) / count**0.5 if count > 1 else torch.zeros_like(batches[0])
        reliability = spearman(batches[0], batches[-1]) if count > 1 else None
        return SiteScores(batches[-1], batches[-1], error, sign=self.sign, reliability=reliability)


def measure_norms(probe: Probe, readings: Sequence[Reading], *, sign: int) -> Measurement:
    """Score each neuron by the norm of its cross moment, times `sign`.

    The moments of both halves are summed in a first pass; a second pass projects each image's moment on the direction
    of the half that the image is not in, which gives a held-out value without bias and its standard error.
    """
    moments, refusals = _summed_moments(probe, readings)
    crossed: dict[Reading, UnitValues] = {reading: ([], []) for reading in moments}
    for seen in each_batch(probe, list(moments)):
        for reading, pieces in seen.items():
            for half, members in in_halves(probe.batches, pieces) or []:
                direction = torch.nn.functional.normalize(moments[reading].sums[1 - half], dim=1)
                with solving(probe):
                    slopes = CurvatureMatrices(reading.map, tuple(members)).slopes(direction)
                crossed[reading][half].append(slopes)
    sites = {reading.site.path: _norm_scores(found, crossed[reading], sign) for reading, found in moments.items()}
    return Measurement(sites, refusals)


@dataclass
class _Moments:
    """Cross moments of one site, summed over the images of either half."""

    sums: tuple[Tensor, Tensor]
    images: int = 0


def _summed_moments(probe: Probe, readings: Sequence[Reading]) -> tuple[dict[Reading, _Moments], dict[str, str]]:
    moments: dict[Reading, _Moments] = {}
    refusals: dict[str, str] = {}
    for seen in each_batch(probe, readings):
        for reading, pieces in seen.items():
            halves = in_halves(probe.batches, pieces)
            if halves is None:
                refusals[reading.site.path] = UNSPLIT
            for half, members in halves or []:
                data = CurvatureMatrices(reading.map, tuple(members))
                with solving(probe):
                    total = data.gradient() * data.images
                found = moments.setdefault(reading, _Moments((torch.zeros_like(total), torch.zeros_like(total))))
                found.sums[half].add_(total)
                found.images += data.images
    return moments, refusals


def _norm_scores(moments: _Moments, crossed: UnitValues, sign: int) -> SiteScores:
    whole = torch.linalg.vector_norm(moments.sums[0] + moments.sums[1], dim=1).double().cpu() / moments.images
    halves = [torch.linalg.vector_norm(total, dim=1).double().cpu() for total in moments.sums]
    mean, error = mean_and_error([(torch.cat([v for v, _ in h]), torch.cat([n for _, n in h])) for h in crossed])
    return SiteScores(sign * whole, sign * mean, error, sign=sign, reliability=spearman(*halves))


def _energy(reading: Reading, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """Return the mean over images of each unit's sum of squared gradients, and the images of each unit."""
    total: Tensor | None = None
    for piece in pieces:
        squared = piece.coefficients.square().movedim(reading.map.channel_dim, -1)
        unit = squared.reshape(piece.units, -1, reading.map.neurons).sum(1).double().cpu()
        total = unit if total is None else total + unit
    assert total is not None  # a site has at least one call
    per_unit = pieces[0].images / pieces[0].units
    return total / per_unit, torch.full((len(total),), per_unit, dtype=torch.float64)
