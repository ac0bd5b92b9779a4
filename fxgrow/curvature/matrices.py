"""The curvature matrices of all neurons of a site, known by their products only.

For neuron i, ``S_i = 1/N sum_t c_it x_t x_t^T`` with a coefficient c for each neuron and position: dL/dO for the branch
matrix, dL/da h''(O) for the splitting matrix, both for the sum of the images' losses. No d x d matrix is formed:

    (S v)_i for all i  =  1/N ((X V^T) * C)^T X

with V (neurons, features), X (positions, features) and C (positions, neurons),
which is two matrix products; at a convolution, the convolution with V and its gradient by V.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxgrow.primitives.linear_map import LinearMap

#: numbers in one block of the product X V^T, so that it stays in the cache between its two uses
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Piece:
    """What one call of a site saw in one batch."""

    input: Tensor  #: as the site takes it, the images in front
    coefficients: Tensor  #: of the shape of the site's output
    units: int  #: equal parts of the leading dimension that count as independent: the images, or 1 if unknown
    images: int
    #: what it was measured on, as (batch, half of that batch): a site's calls in one batch share it
    source: tuple[int, int]

    def half(self, half: int) -> "Piece":
        """Return the even images (0) or the odd ones (1)."""
        chosen = torch.arange(half, self.units, 2, device=self.input.device)
        parts = [
            value.reshape(self.units, -1, *value.shape[1:]).index_select(0, chosen).flatten(0, 1)
            for value in (self.input, self.coefficients)
        ]
        return replace(
            self,
            input=parts[0],
            coefficients=parts[1],
            units=len(chosen),
            images=len(chosen),
            source=(self.source[0], half),
        )


@dataclass(frozen=True, eq=False)
class CurvatureMatrices:
    """The matrices S_i of all neurons of a site over some probe data, for the mean loss over it."""

    map: LinearMap
    pieces: tuple[Piece, ...]

    @property
    def images(self) -> int:
        """The number of images, each counted once however often a batch calls the site."""
        return sum({piece.source: piece.images for piece in self.pieces}.values())

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return ``S_i v_i`` for vectors v, one for each neuron; both are ``(neurons, features)``."""
        total = torch.zeros_like(vectors)
        for piece in self.pieces:
            product = self._matrix_product if not self.map.spatial else self._convolution
            product(piece, vectors, total)
        return total / self.images

    def gradient(self) -> Tensor:
        """Return ``1/N sum_t c_it x_t``, the first-order term beside S_i, ``(neurons, features)``."""
        total = torch.zeros(self.map.neurons, self.map.features).to(self.pieces[0].input)
        for piece in self.pieces:
            with torch.enable_grad():
                rows = torch.zeros_like(total, requires_grad=True)
                (product,) = torch.autograd.grad(self.map(piece.input, rows), rows, piece.coefficients)
            total += product
        return total / self.images

    def quotients(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``v_i^T S_i v_i`` over each unit of the data by itself, and how many images each unit has.

        Returns:
            Quotients ``(units, neurons)``, whose mean weighted by images is that of the whole; images ``(units,)``.
        """
        return self._by_unit(vectors, 2)

    def slopes(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``v_i^T g_i``, g the `gradient`, over each unit of the data by itself, and the images of each unit."""
        return self._by_unit(vectors, 1)

    def _by_unit(self, vectors: Tensor, power: int) -> tuple[Tensor, Tensor]:
        sums: dict[tuple[int, int], Tensor] = {}
        images: dict[tuple[int, int], Tensor] = {}
        for piece in self.pieces:
            quotients = self._unit_sums(piece, vectors, power) * (piece.units / piece.images)
            sums[piece.source] = sums[piece.source] + quotients if piece.source in sums else quotients
            images[piece.source] = torch.full((piece.units,), piece.images / piece.units, dtype=torch.float64)
        return torch.cat(list(sums.values())), torch.cat(list(images.values()))

    def _matrix_product(self, piece: Piece, vectors: Tensor, total: Tensor) -> None:
        inputs, coefficients = piece.input.flatten(0, -2), piece.coefficients.flatten(0, -2)
        step = max(1, _BLOCK // len(vectors))
        for x, c in _blocks(inputs, coefficients, step):
            total.addmm_(torch.mm(x, vectors.T).mul_(c).T, x)

    def _convolution(self, piece: Piece, vectors: Tensor, total: Tensor) -> None:
        step = max(1, 4 * _BLOCK // max(1, piece.coefficients[0].numel()))
        for x, c in _blocks(piece.input, piece.coefficients, step):
            with torch.enable_grad():
                rows = vectors.detach().requires_grad_()
                projected = self.map(x, rows)
            (product,) = torch.autograd.grad(projected, rows, projected.detach() * c)
            total += product

    def _unit_sums(self, piece: Piece, vectors: Tensor, power: int) -> Tensor:
        """Return each unit's sum over positions of ``c (x^T v)^power``, ``(units, neurons)``, float64 on the CPU."""
        step = max(1, _BLOCK // max(1, piece.coefficients[0].numel()))
        blocks = []
        for x, c in _blocks(piece.input, piece.coefficients, step):
            terms = self.map(x, vectors).pow_(power).mul_(c).movedim(self.map.channel_dim, -1)
            blocks.append(terms.reshape(len(x), -1, self.map.neurons).sum(1).double().cpu())
        return torch.cat(blocks).reshape(piece.units, -1, self.map.neurons).sum(1)


def _blocks(inputs: Tensor, coefficients: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(inputs, step), torch.split(coefficients, step), strict=True)


def split_in_halves(pieces: Iterable[Piece]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]] | None:
    """Split probe data into two halves of whole images.

    Several batches are dealt out whole (`deal_out`); the images of a single batch are dealt out in turn. None where a
    single batch does not show which rows belong to which image.
    """
    pieces = tuple(pieces)
    if len({piece.source for piece in pieces}) == 1:
        if any(piece.units < 2 for piece in pieces):
            return None
        return tuple(piece.half(0) for piece in pieces), tuple(piece.half(1) for piece in pieces)
    halves = deal_out({piece.source[0]: piece.images for piece in pieces})
    first, second = (tuple(piece for piece in pieces if halves[piece.source[0]] == half) for half in (0, 1))
    return first, second


def deal_out(sizes: Mapping[int, int]) -> dict[int, int]:
    """Say for each batch which half it belongs to: the largest first, each to the half with fewer images so far."""
    halves: dict[int, int] = {}
    images = [0, 0]
    for batch, size in sorted(sizes.items(), key=lambda item: -item[1]):
        halves[batch] = 0 if images[0] <= images[1] else 1
        images[halves[batch]] += size
    return halves
