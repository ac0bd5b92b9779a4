"""The curvature matrices of all neurons of a site, known by their products only.

For neuron i, ``S_i = 1/N sum_t c_it x_t x_t^T`` with a coefficient c for each neuron and position: dL/dO for the branch
matrix, dL/da h''(O) for the splitting matrix, both for the sum of the samples' losses. No d x d matrix is formed:

    (S v)_i for all i  =  1/N ((X V^T) * C)^T X

with V (neurons, features), X (positions, features) and C (positions, neurons),
which is two matrix products; at a convolution, the convolution with V and its gradient by V.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fxgrow.curvature.statistics import joined
from fxgrow.execution.ranks import ALONE, Ranks
from fxgrow.primitives.linear_map import LinearMap

#: why a score that is made of two halves has none
UNSPLIT = "one batch that does not show its samples here cannot be halved; give at least two batches"
#: numbers in one block of the product X V^T, so that it stays in the cache between its two uses
_BLOCK = 1 << 20
#: share of the positions above which leaving the others out saves less than it costs to copy
_WORTH_A_COPY = 0.9


@dataclass(frozen=True, eq=False)
class CapturedCall:
    """What one call of a site saw in one batch."""

    input: Tensor  #: as the site takes it, the samples in front
    coefficients: Tensor  #: of the shape of the site's output
    parts: int  #: equal parts of the leading dimension that are independent: the samples, or 1 where they do not show
    samples: int
    #: what it was measured on, as (batch, half of that batch): a site's calls in one batch share it
    source: tuple[int, int]

    def half(self, half: int) -> "CapturedCall":
        """Return the even samples (0) or the odd ones (1)."""
        chosen = torch.arange(half, self.parts, 2, device=self.input.device)
        parts = [
            value.reshape(self.parts, -1, *value.shape[1:]).index_select(0, chosen).flatten(0, 1)
            for value in (self.input, self.coefficients)
        ]
        return replace(
            self,
            input=parts[0],
            coefficients=parts[1],
            parts=len(chosen),
            samples=len(chosen),
            source=(self.source[0], half),
        )

    def positions(self, *, spatial: bool) -> int:
        """Return how many positions there are; whole samples of a convolution."""
        return len(self.input) if spatial else self.input.shape[:-1].numel()

    def heaviest(self, share: float, *, spatial: bool) -> "CapturedCall":
        """Return the fewest positions that carry a share of ``sum_t |c_t| |x_t|^2``; whole samples of a convolution.

        What is left out changes no matrix by more than ``1/N sum |c_it| |x_t|^2`` over what is left out, in any norm.
        """
        weights = self._weights(spatial)
        carried = weights.sort(descending=True).values.cumsum(0)
        return self._chosen(weights, int((carried < share * carried[-1]).sum()) + 1, spatial)

    def few(self, part: float, *, spatial: bool) -> "CapturedCall":
        """Return a part of the positions, at least one: those that carry most."""
        weights = self._weights(spatial)
        return self._chosen(weights, max(1, int(part * len(weights))), spatial)

    def _weights(self, spatial: bool) -> Tensor:
        """Return ``|c_t| |x_t|^2`` of each position."""
        x, c = self._by_position(spatial)
        return torch.linalg.vector_norm(c.flatten(1), dim=1) * torch.linalg.vector_norm(x.flatten(1), dim=1).square()

    def _chosen(self, weights: Tensor, count: int, spatial: bool) -> "CapturedCall":
        """Return the heaviest positions, in their order."""
        if count > _WORTH_A_COPY * len(weights):
            return self
        x, c = self._by_position(spatial)
        chosen = weights.topk(count).indices.sort().values
        return replace(self, input=x.index_select(0, chosen), coefficients=c.index_select(0, chosen), parts=1)

    def _by_position(self, spatial: bool) -> tuple[Tensor, Tensor]:
        """Return the input and the coefficients with one position after the other in front."""
        x, c = self.input, self.coefficients
        return (x, c) if spatial else (x.flatten(0, -2), c.flatten(0, -2))


@dataclass(frozen=True, eq=False)
class CurvatureMatrices:
    """The matrices S_i of all neurons of a site over some probe data, for the mean loss over it."""

    map: LinearMap
    captured: tuple[CapturedCall, ...]
    ranks: Ranks = ALONE  #: which have other parts of the data; what is asked of all of it is asked of all of them

    @cached_property
    def samples(self) -> int:
        """The number of samples, each counted once however often a batch calls the site."""
        return self.ranks.total(sum({call.source: call.samples for call in self.captured}.values()))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return ``S_i v_i`` for vectors v, one for each neuron; both are ``(neurons, features)``."""
        total = torch.zeros_like(vectors)
        product = self._convolution if self.map.spatial else self._matrix_product
        for x, c in self._pieces():
            product(x, c, vectors, total)
        return self.ranks.sum(total) / self.samples

    def along(self, vectors: Tensor) -> Tensor:
        """Return ``v_i^T S_i v_i``, ``(neurons,)``, which is half the work of a product."""
        total = vectors.new_zeros(len(vectors))
        for x, c in self._pieces():
            total += self._terms(x, c, vectors, 2).flatten(0, -2).sum(0)
        return self.ranks.sum(total) / self.samples

    @property
    def positions(self) -> int:
        """The number of positions on all ranks; of whole samples at a convolution."""
        return self.ranks.total(sum(call.positions(spatial=self.map.spatial > 0) for call in self.captured))

    def heaviest(self, share: float) -> "CurvatureMatrices":
        """Return the matrices over the positions that carry most of them (`CapturedCall.heaviest`)."""
        captured = tuple(call.heaviest(share, spatial=self.map.spatial > 0) for call in self.captured)
        return CurvatureMatrices(self.map, captured, self.ranks)

    def few(self, part: float) -> "CurvatureMatrices":
        """Return the matrices over a part of the positions alone (`CapturedCall.few`)."""
        captured = tuple(call.few(part, spatial=self.map.spatial > 0) for call in self.captured)
        return CurvatureMatrices(self.map, captured, self.ranks)

    def gradient(self) -> Tensor:
        """Return ``1/N sum_t c_it x_t``, the first-order term beside S_i, ``(neurons, features)``."""
        total = torch.zeros(self.map.neurons, self.map.features).to(self.captured[0].input)
        for call in self.captured:
            with torch.enable_grad():
                rows = torch.zeros_like(total, requires_grad=True)
                (product,) = torch.autograd.grad(self.map(call.input, rows), rows, call.coefficients)
            total += product
        return self.ranks.sum(total) / self.samples

    def quotients(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``v_i^T S_i v_i`` over each part of this rank's data by itself, and how many samples each part has.

        Returns:
            Quotients ``(parts, neurons)``, whose mean weighted by samples is that of the whole; samples ``(parts,)``.
        """
        return self._by_part(vectors, 2)

    def slopes(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``v_i^T g_i``, g the `gradient`, over each part of the data by itself, and the samples of each."""
        return self._by_part(vectors, 1)

    def _by_part(self, vectors: Tensor, power: int) -> tuple[Tensor, Tensor]:
        sums: dict[tuple[int, int], Tensor] = {}
        samples: dict[tuple[int, int], Tensor] = {}
        for call in self.captured:
            quotients = self._part_sums(call, vectors, power) * (call.parts / call.samples)
            sums[call.source] = sums[call.source] + quotients if call.source in sums else quotients
            samples[call.source] = torch.full((call.parts,), call.samples / call.parts, dtype=torch.float64)
        return joined(zip(sums.values(), samples.values(), strict=True), self.map.neurons)

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and coefficients of positions, of whole samples at a convolution, as many as fit the cache."""
        for call in self.captured:
            if self.map.spatial:
                step = max(1, 4 * _BLOCK // max(1, call.coefficients[0].numel()))
                yield from _blocks(call.input, call.coefficients, step)
            else:
                step = max(1, _BLOCK // self.map.neurons)
                yield from _blocks(call.input.flatten(0, -2), call.coefficients.flatten(0, -2), step)

    def _matrix_product(self, x: Tensor, c: Tensor, vectors: Tensor, total: Tensor) -> None:
        total.addmm_(torch.mm(x, vectors.T).mul_(c).T, x)

    def _convolution(self, x: Tensor, c: Tensor, vectors: Tensor, total: Tensor) -> None:
        with torch.enable_grad():
            rows = vectors.detach().requires_grad_()
            projected = self.map(x, rows)
        (product,) = torch.autograd.grad(projected, rows, projected.detach() * c)
        total += product

    def _terms(self, x: Tensor, c: Tensor, vectors: Tensor, power: int) -> Tensor:
        """Return ``c (x^T v)^power`` at each position, the neurons last."""
        return self.map(x, vectors).pow_(power).mul_(c).movedim(self.map.channel_dim, -1)

    def _part_sums(self, call: CapturedCall, vectors: Tensor, power: int) -> Tensor:
        """Return each part's sum over positions of ``c (x^T v)^power``, ``(parts, neurons)``, float64 on the CPU."""
        step = max(1, _BLOCK // max(1, call.coefficients[0].numel()))
        blocks = [
            self._terms(x, c, vectors, power).reshape(len(x), -1, self.map.neurons).sum(1).double().cpu()
            for x, c in _blocks(call.input, call.coefficients, step)
        ]
        return torch.cat(blocks).reshape(call.parts, -1, self.map.neurons).sum(1)


def _blocks(inputs: Tensor, coefficients: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(inputs, step), torch.split(coefficients, step), strict=True)


def split_in_halves(
    captured: Iterable[CapturedCall], halves: Mapping[int, int] | None = None
) -> list[tuple[CapturedCall, ...]]:
    """Split probe data into two halves of whole samples.

    Several batches are dealt out whole; the samples of a single batch are dealt out in turn. A single batch that does
    not show which rows belong to which sample stays whole.

    Args:
        captured: What a site saw on this rank.
        halves: The half of each batch, those of other ranks included (`deal_out`); of these batches alone if None.
    """
    captured = tuple(captured)
    dealt = halves or deal_out({call.source[0]: call.samples for call in captured})
    if len(dealt) == 1:
        if any(call.parts < 2 for call in captured):
            return [captured]
        return [tuple(call.half(half) for call in captured) for half in (0, 1)]
    return [tuple(call for call in captured if dealt[call.source[0]] == half) for half in (0, 1)]


def in_halves(
    halves: Mapping[int, int], captured: Sequence[CapturedCall]
) -> list[tuple[int, list[CapturedCall]]] | None:
    """Return what a site saw in one batch, by half; None where a single batch does not show its samples.

    Args:
        halves: The half of each batch, on all ranks (`deal_out`).
        captured: What the site saw.
    """
    if len(halves) > 1:
        return [(halves[captured[0].source[0]], list(captured))]
    if any(call.parts < 2 for call in captured):
        return None
    return [(half, [call.half(half) for call in captured]) for half in (0, 1)]


def deal_out(sizes: Mapping[int, int]) -> dict[int, int]:
    """Say for each batch which half it belongs to: the largest first, each to the half with fewer samples so far."""
    halves: dict[int, int] = {}
    samples = [0, 0]
    for batch, size in sorted(sizes.items(), key=lambda item: -item[1]):
        halves[batch] = 0 if samples[0] <= samples[1] else 1
        samples[halves[batch]] += size
    return halves
