"""Candidate features of a site: random functions of its features, without what a linear map of them can already do."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.curvature.matrices import UNSPLIT, CapturedCall, in_halves
from fxgrow.curvature.probe import Probe, solving
from fxgrow.curvature.reading import Reading, for_solving
from fxgrow.curvature.sample_dimension import samples_in_front
from fxgrow.execution.ranks import ALONE, Ranks

#: added to the diagonal of the features' correlation matrix, so that constant and repeated features do no harm
_RIDGE = 1e-6
_POSITIONS_PER_CHANNEL = 2


@dataclass(frozen=True, eq=False)
class CandidateFeatures:
    """``psi = GELU(W1 h' + b1) - P [h', 1]``: random functions that are orthogonal to h and a constant.

    h' are the site's features h, shifted and scaled to mean 0 and variance 1 on the first batch. P is fitted on each
    half of the data by itself: fitted on both, what is left of h in one half would be missing in the other, and a
    product of the two halves' moments would be biased downwards.
    """

    channel_dim: int
    mean: Tensor  #: ``(channels,)``
    deviation: Tensor  #: ``(channels,)``
    weight: Tensor  #: W1, rows of unit norm, ``(candidates, channels)``
    bias: Tensor  #: b1, standard normal, ``(candidates,)``
    projections: tuple[Tensor, ...] = ()  #: P transposed, for either half, ``(channels + 1, candidates)``

    def __call__(self, features: Tensor, half: int) -> Tensor:
        """Map features of one half, the samples in front, to ``(positions, candidates)``."""
        linear, candidates = self.raw(features)
        return candidates - linear @ self.projections[half]

    def raw(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``[h', 1]`` (positions, channels + 1) and ``GELU(W1 h' + b1)`` (positions, candidates)."""
        flat = features.movedim(self.channel_dim, -1).flatten(0, -2)
        standard = (flat - self.mean) / self.deviation
        linear = torch.cat([standard, torch.ones_like(standard[:, :1])], dim=1)
        return linear, F.gelu(standard @ self.weight.T + self.bias)

    @classmethod
    def drawn(
        cls, reading: Reading, features: Tensor, count: int, seed: int, ranks: Ranks = ALONE
    ) -> "CandidateFeatures":
        """Draw candidates for a site whose features on the first batch are given; nothing is projected out yet."""
        channels = reading.map.neurons
        flat = features.movedim(reading.map.channel_dim, -1).flatten(0, -2)
        mean, deviation = ranks.of_first(torch.stack([flat.mean(0), flat.std(0, correction=0)]))
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(reading.site.path.encode()))
        weight = F.normalize(torch.randn(count, channels, generator=generator, dtype=torch.float64), dim=1)
        bias = torch.randn(count, generator=generator, dtype=torch.float64)
        return cls(
            channel_dim=reading.map.channel_dim,
            mean=mean,
            deviation=torch.where(deviation > 1e-6 * deviation.max(), deviation, torch.ones_like(deviation)),
            weight=weight.to(flat),
            bias=bias.to(flat),
        )


def fit_candidates(
    probe: Probe, readings: Sequence[Reading], count: int
) -> tuple[dict[Reading, CandidateFeatures], dict[str, str]]:
    """Draw candidates for each site, and project out of them what is linear in its features.

    Returns:
        The candidates; and for the sites without any, by path, the reason.
    """
    drawn: dict[Reading, CandidateFeatures] = {}
    products: dict[Reading, tuple[Tensor, Tensor]] = {}
    refusals: dict[str, str] = {}
    for reading, seen in _features(probe, readings):
        halves = in_halves(probe.halves, seen)
        if halves is None:
            refusals[reading.site.path] = UNSPLIT
            continue
        with solving(probe):
            if reading not in drawn:
                drawn[reading] = CandidateFeatures.drawn(reading, seen[0].input, count, probe.seed, probe.ranks)
            for half, captured in halves:
                for call in captured:
                    linear, candidates = drawn[reading].raw(call.input)
                    product = linear.T @ torch.cat([linear, candidates], dim=1)
                    sums = products.setdefault(reading, (torch.zeros_like(product), torch.zeros_like(product)))
                    sums[half].add_(product)
    fitted: dict[Reading, CandidateFeatures] = {}
    for reading, (one, other) in products.items():
        sums = probe.ranks.sum(one), probe.ranks.sum(other)
        size = len(sums[0])
        positions = round(min(float(total[-1, size - 1]) for total in sums))  # the constant times itself
        if positions < _POSITIONS_PER_CHANNEL * size:
            refusals[reading.site.path] = (
                f"{positions} positions in a half of the data are too few to take out what is linear in "
                f"{size - 1} features; give more samples"
            )
        else:
            fitted[reading] = replace(drawn[reading], projections=tuple(_projection(total) for total in sums))
    return fitted, refusals


def part_moments(features: CandidateFeatures, captured: Sequence[CapturedCall], half: int) -> Tensor:
    """Return each part's sum over positions and calls of ``c_t psi_t^T``, ``(parts, neurons, candidates)``."""
    total: Tensor | None = None
    for call in captured:
        psi = features(call.input, half).reshape(call.parts, -1, len(features.weight))
        coefficients = call.coefficients.movedim(features.channel_dim, -1)
        coefficients = coefficients.reshape(call.parts, -1, coefficients.shape[-1])
        moments = torch.bmm(coefficients.transpose(1, 2), psi)
        total = moments if total is None else total + moments
    assert total is not None  # a site has at least one call
    return total


def _features(probe: Probe, readings: Sequence[Reading]) -> Iterator[tuple[Reading, list[CapturedCall]]]:
    """Yield what each site's features are on each batch, as captured without coefficients."""
    nodes = [node for reading in readings for node in reading.inputs]
    dimensions = probe.dimensions(nodes)
    for batch in probe.batches:
        with probe.forward(batch, values=nodes) as run:
            values = {node: for_solving(value) for node, value in run.values.items()}
        for reading in readings:
            seen = [
                samples_in_front(values[node], dimensions[node], batch.samples, reading.map.spatial)
                for node in reading.inputs
            ]
            parts = min(parts for _, parts in seen)
            yield (
                reading,
                [CapturedCall(value, value, parts, batch.samples, (batch.index, 0)) for value, _ in seen],
            )


def _projection(products: Tensor) -> Tensor:
    """Solve for P by ridge regression; `products` are ``[h', 1]^T [h', 1, psi]``."""
    size = len(products)
    gram, cross = products[:, :size].double(), products[:, size:].double()
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=gram.device)
    solution: Tensor = torch.linalg.solve(gram + ridge, cross)
    return solution.to(products)
