"""The predicted decrease of the loss by a pseudo-layer: a local quadratic model, fitted and tested on two halves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.candidates import CandidateFeatures, fit_candidates, unit_moments
from fxgrow.curvature.capture import ForwardPass
from fxgrow.curvature.cross_fit import mean_and_error
from fxgrow.curvature.gauss_newton import output_factors
from fxgrow.curvature.matrices import Piece
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.streams import in_halves, solving
from fxgrow.errors import AnalysisError

Metric = Literal["gauss-newton", "fisher"]


@dataclass(frozen=True)
class Gain(Score):
    """How much a small pseudo-layer on the site's features would lower the loss at each of them.

    For `units` candidate features psi = GELU(W1 h + b1), random, without what is linear in h,

        g_k = 1/N sum_n sum_t delta_kt psi_t                          first order
        H_k = 1/N sum_n E[(sum_t d_kt psi_t)(sum_t d_kt psi_t)^T]     the metric
        gain_k = 1/2 g_k^T (H_k + damping)^-1 g_k

    with delta the gradient of an image's loss at the feature, and d either a random gradient whose second moment is the
    Gauss-Newton matrix, or delta itself (the empirical Fisher matrix). `held_out` is
    ``1/2 g_A^T (H + damping)^-1 g_B`` for the two halves of the data, so that noise averages to zero.

    Args:
        units: Candidate features; the same for all features of a site.
        damping: Added to the diagonal of H_k, in units of its mean diagonal.
        metric: ``"gauss-newton"``, for a model with one output ``(images, outputs)`` and a loss that is convex in it,
            or ``"fisher"``, for any.
        draws: Random gradients for each image, of the Gauss-Newton metric.
    """

    name: ClassVar[str] = "gain"

    units: int = 16
    damping: float = 0.01
    metric: Metric = "gauss-newton"
    draws: int = 4

    def __post_init__(self) -> None:
        if self.metric not in ("gauss-newton", "fisher"):
            fix = "choose 'gauss-newton' or 'fisher'"
            raise AnalysisError("no such metric", where=f"metric {self.metric!r}", fix=fix)
        if self.units < 1 or self.draws < 1 or not self.damping > 0:
            raise AnalysisError("units, draws and damping must be positive", where="score 'gain'")

    def measure(self, probe: Probe) -> Measurement:
        """Score every site, as many at once as the memory allows."""
        scores: dict[str, SiteScores] = {}
        refusals: dict[str, str] = {}
        readings = [Reading.of_features(probe.graph_module, site) for site in probe.sites.values()]
        for group in self._groups(probe, readings):
            candidates, refused = fit_candidates(probe, group, self.units)
            refusals.update(refused)
            for reading, moments in self._moments(probe, candidates).items():
                scores[reading.site.path] = moments.scores(self.damping)
        return Measurement({path: scores[path] for path in probe.sites if path in scores}, refusals)

    def _groups(self, probe: Probe, readings: Sequence[Reading]) -> Iterator[list[Reading]]:
        """Yield readings whose moments fit the memory together, at least one at a time."""
        group: list[Reading] = []
        size = 0
        for reading in readings:
            neurons = reading.map.neurons
            needed = 8 * (neurons * self.units * (probe.images + self.units) + 2 * neurons**2)
            if group and size + needed > probe.max_memory:
                yield group
                group, size = [], 0
            group.append(reading)
            size += needed
        if group:
            yield group

    def _moments(self, probe: Probe, candidates: Mapping[Reading, CandidateFeatures]) -> "dict[Reading, _Moments]":
        """Run the data once: first moments by image, and the metric."""
        found: dict[Reading, _Moments] = {reading: _Moments() for reading in candidates}
        nodes = list(dict.fromkeys(node for reading in candidates for node in reading.differentiated))
        generator = torch.Generator().manual_seed(probe.seed)
        for batch in probe.batches if nodes else ():
            with probe.forward(batch, differentiable=nodes) as run:
                drawn = self._drawn_gradients(probe, run, batch, nodes, generator)
                gradients = run.gradients(nodes)
                for reading, moments, half, piece in _unit_moments(probe, run, batch, candidates, gradients):
                    found[reading].add(half, moments, piece)
                for metric_gradients in drawn or [gradients]:
                    for reading, moments, _, _ in _unit_moments(probe, run, batch, candidates, metric_gradients):
                        found[reading].add_metric(moments, 1 / max(len(drawn), 1))
        return found

    def _drawn_gradients(
        self, probe: Probe, run: ForwardPass, batch: Batch, nodes: list[fx.Node], generator: torch.Generator
    ) -> list[dict[fx.Node, Tensor]]:
        """Return random gradients of the Gauss-Newton metric, scaled as those of the mean loss; none for Fisher's."""
        if self.metric == "fisher":
            return []
        factors = output_factors(probe.loss_fn, run.output, batch)
        drawn = []
        for _ in range(self.draws):
            z = torch.randn(factors.shape[:2], generator=generator, dtype=torch.float64).to(factors)
            cotangent = (torch.bmm(factors, z[:, :, None]).squeeze(2) / batch.images).to(run.output)
            drawn.append(run.gradients(nodes, cotangent=cotangent, retain_graph=True))
        return drawn


def _unit_moments(
    probe: Probe,
    run: ForwardPass,
    batch: Batch,
    candidates: Mapping[Reading, CandidateFeatures],
    gradients: Mapping[fx.Node, Tensor],
) -> Iterator[tuple[Reading, Tensor, int, Piece]]:
    """Yield for each site, and each half that the batch has a part in, the moments of its units."""
    for reading, features in candidates.items():
        pieces = reading.pieces(run.values, gradients, batch, probe.places(reading.inputs))
        with solving(probe):
            parts = [
                (unit_moments(features, members, half).double().cpu(), half, members[0])
                for half, members in in_halves(probe.batches, pieces) or []
            ]
        for moments, half, piece in parts:
            yield reading, moments, half, piece


@dataclass
class _Moments:
    """First moments of each image, by half, and the metric summed over all images."""

    first: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    images: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    metric: Tensor | None = None

    def add(self, half: int, moments: Tensor, piece: Piece) -> None:
        """Add the moments ``(units, neurons, p)`` of one batch, of which `piece` says how many images they are of."""
        per_unit = piece.images / piece.units
        self.first[half].append(moments / per_unit)
        self.images[half].append(torch.full((piece.units,), per_unit, dtype=torch.float64))

    def add_metric(self, moments: Tensor, share: float) -> None:
        """Add the outer products of the moments of random gradients."""
        neurons_first = moments.transpose(0, 1)
        products = share * torch.bmm(neurons_first.transpose(1, 2), neurons_first)
        self.metric = products if self.metric is None else self.metric + products

    def scores(self, damping: float) -> SiteScores:
        """Return 1/2 g^T (H + damping)^-1 g and its cross-fitted version."""
        assert self.metric is not None  # moments are added together with their metric
        halves = [(torch.cat(first), torch.cat(images)) for first, images in zip(self.first, self.images, strict=True)]
        sums = [(first * images[:, None, None]).sum(0) for first, images in halves]
        counts = [float(images.sum()) for _, images in halves]
        metric = _damped(self.metric / sum(counts), damping)
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        steps = [_solved(metric, mean) for mean in means]
        whole = (sums[0] + sums[1]) / sum(counts)
        crossed = [
            (0.5 * (first * step).sum(2), images) for (first, images), step in zip(halves, reversed(steps), strict=True)
        ]
        own = [0.5 * (mean * step).sum(1) for mean, step in zip(means, steps, strict=True)]
        held_out, error = mean_and_error(crossed)
        values = 0.5 * (whole * _solved(metric, whole)).sum(1)
        return SiteScores(values, held_out, error, sign=1, reliability=spearman(own[0], own[1]))


def _damped(metric: Tensor, damping: float) -> Tensor:
    """Add `damping` times the mean diagonal; where a feature has no curvature at all, anything definite does."""
    diagonal = metric.diagonal(dim1=1, dim2=2).mean(1)
    added = torch.where(diagonal > 0, damping * diagonal, torch.ones_like(diagonal))
    return metric + added[:, None, None] * torch.eye(metric.shape[1], dtype=metric.dtype)


def _solved(metric: Tensor, moments: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(metric, moments.unsqueeze(2))
    return solution.squeeze(2)
