"""Batched Lanczos: extreme eigenvalues of many symmetric matrices at once, each known only by its products."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fxgrow.curvature.statistics import spearman

Operator = Callable[[Tensor], Tensor]
Wanted = Literal["least", "greatest", "largest"]

#: problems whose order is watched: the rank correlation of so many is that of all, within a tenth of what it lacks of 1
_WATCHED = 256
#: a vector that loses more than this by being made orthogonal is not orthogonal yet (Daniel et al. 1976)
_CANCELLED = 0.1


@dataclass(frozen=True, eq=False)
class RitzPairs:
    """One approximate eigenpair for each of the matrices."""

    values: Tensor  #: ``(problems,)``, float64 on the CPU
    vectors: Tensor  #: unit vectors, ``(problems, size)``, dtype and device of the start
    #: an eigenvalue lies within this of the value, ``(problems,)``: ``|S v - value v|``, or what that of the iteration
    #: before says where the last product was not made
    residuals: Tensor


@dataclass(frozen=True, eq=False)
class Tridiagonals:
    """What Lanczos found: an orthonormal basis for each matrix, and the matrix projected on it.

    The projected matrix of problem i has the diagonal ``diagonal[i]`` and the off-diagonal ``off_diagonal[i]`` without
    its last column, which is the norm of what the last product left over. There is no such column where only the
    quotient of the last vector was taken.
    """

    basis: Tensor  #: ``(problems, iterations, size)``
    diagonal: Tensor  #: ``(problems, iterations)``, float64 on the CPU
    off_diagonal: Tensor  #: ``(problems, iterations)``, or one column less

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Return the Ritz values, ascending, ``(problems, iterations)``, and their coordinates in the basis."""
        values, coordinates = torch.linalg.eigh(self._matrices())
        return values, coordinates

    def least(self) -> Tensor:
        """Return the least Ritz value of each matrix, ``(problems,)``."""
        return torch.linalg.eigvalsh(self._matrices())[:, 0]

    def _matrices(self) -> Tensor:
        inner = self.off_diagonal[:, : self.diagonal.shape[1] - 1]
        return torch.diag_embed(self.diagonal) + torch.diag_embed(inner, 1) + torch.diag_embed(inner, -1)

    def pairs(self, wanted: Wanted = "least") -> RitzPairs:
        """Return the pair with the least, the greatest, or in absolute value the largest eigenvalue of each matrix."""
        values, coordinates = self.eigh()
        last = values.shape[1] - 1
        if wanted == "largest":
            index = torch.where(values[:, 0].abs() > values[:, -1].abs(), 0, last)
        else:
            index = torch.full((len(values),), 0 if wanted == "least" else last)
        chosen = coordinates.gather(2, index[:, None, None].expand(-1, last + 1, 1)).squeeze(2)
        weights = chosen.to(self.basis)
        vectors = torch.nn.functional.normalize(torch.bmm(weights.unsqueeze(1), self.basis).squeeze(1), dim=1)
        found = values.gather(1, index[:, None]).squeeze(1)
        if self.off_diagonal.shape == self.diagonal.shape:
            return RitzPairs(found, vectors, (self.off_diagonal[:, -1] * chosen[:, -1]).abs())
        before = Tridiagonals(self.basis[:, :-1], self.diagonal[:, :-1], self.off_diagonal).pairs(wanted)
        return RitzPairs(found, vectors, before.residuals + (before.values - found).abs())


def lanczos(
    operator: Operator,
    start: Tensor,
    iterations: int,
    *,
    settled: float | None = None,
    apart: int = 2,
    known: Tensor | None = None,
    quotient: Operator | None = None,
) -> Tridiagonals:
    """Run Lanczos on `problems` symmetric matrices at once.

    Every new vector is made orthogonal to the whole basis: next to the products this costs little, and it lets a Krylov
    space that is exhausted (a matrix of low rank, a zero matrix) go on with a fresh direction. With as many iterations
    as the matrices have rows the result is therefore exact up to rounding, whatever the matrices.

    Args:
        operator: Maps vectors ``(problems, size)``, one for each matrix, to the products ``(problems, size)``.
        start: The direction in which every Krylov space begins, ``(problems, size)``; it need not be normalised.
        iterations: Products per matrix; cut to `size`.
        settled: If given, stop when the order of the problems by their least Ritz values hardly changes any more: when
            its rank correlation with the order of an earlier iteration is at least this. Not where `iterations` is
            enough for exact results.
        apart: How many iterations lie between the two orders: 1 is enough where `start` is near the eigenvectors.
        known: Values by which the problems are ordered before the first iteration, ``(problems,)`` on the CPU.
        quotient: Maps vectors to ``v^T S v``, ``(problems,)``, which takes half of a product and is all that Ritz pairs
            need of the last iteration. If given, one such half iteration follows when the order has settled.

    Returns:
        The basis and the tridiagonal matrices.
    """
    problems, size = start.shape
    steps = min(iterations, size)
    basis = start.new_empty(problems, steps, size)
    basis[:, 0] = torch.nn.functional.normalize(start, dim=1)
    diagonal, off_diagonal = list[Tensor](), list[Tensor]()
    scale, has_settled = start.new_zeros(problems), False
    # where the result is going to be exact, it is let be exact
    order = _Order(settled if steps < size else None, apart, known)
    for step in range(steps):
        vectors, found = basis[:, step], basis[:, : step + 1]
        if has_settled and quotient is not None:
            diagonal.append(quotient(vectors))
            break
        product = operator(vectors)
        length = torch.linalg.vector_norm(product, dim=1)
        diagonal.append(torch.linalg.vecdot(product, vectors))
        rest = _orthogonalised(product, found)
        norm = torch.linalg.vector_norm(rest, dim=1)
        if bool((norm < _CANCELLED * length).any()):  # what is left is rounding in part, which twice is enough against
            rest = _orthogonalised(rest, found)
            norm = torch.linalg.vector_norm(rest, dim=1)
        scale = torch.maximum(scale, length)
        exhausted = norm <= 8 * torch.finfo(start.dtype).eps * scale
        off_diagonal.append(norm.masked_fill(exhausted, 0))
        has_settled = order.has_settled(diagonal, off_diagonal)
        if has_settled and quotient is None:
            break
        if step + 1 < steps:
            basis[:, step + 1] = _next_vectors(rest, exhausted, found)
    return Tridiagonals(basis[:, : len(diagonal)], _as_columns(diagonal), _as_columns(off_diagonal))


def _watched(values: Tensor) -> Tensor:
    """Return the values of some of the problems, evenly, whose order tells that of all."""
    return values[:: -(-len(values) // _WATCHED)]


def _as_columns(values: list[Tensor]) -> Tensor:
    return torch.stack(values, 1).double().cpu()


class _Order:
    """Watches how the order of the problems by their least Ritz values changes."""

    def __init__(self, settled: float | None, apart: int, known: Tensor | None) -> None:
        self.settled = settled
        self.values = deque([] if known is None else [_watched(known)], maxlen=apart + 1)

    def has_settled(self, diagonal: list[Tensor], off_diagonal: list[Tensor]) -> bool:
        if self.settled is None:
            return False
        watched, beside = (_as_columns([_watched(column) for column in part]) for part in (diagonal, off_diagonal))
        self.values.append(Tridiagonals(watched, watched, beside).least())
        if len(self.values) < (self.values.maxlen or 0):
            return False
        correlation = spearman(self.values[0], self.values[-1])
        return correlation is not None and correlation >= self.settled


def start_vectors(problems: int, size: int, seed: int, like: Tensor) -> Tensor:
    """Return one random direction, the same for all problems, so that the order of the problems changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(like).expand(problems, size)


def _next_vectors(rest: Tensor, exhausted: Tensor, basis: Tensor) -> Tensor:
    """Normalise what was left over; where nothing was, take a fresh direction orthogonal to the basis."""
    if bool(exhausted.any()):
        fresh = start_vectors(rest.shape[0], rest.shape[1], seed=basis.shape[1], like=rest)
        for _ in range(2):  # twice is enough (Giraud, Langou and Rozloznik 2005)
            fresh = _orthogonalised(fresh, basis)
        rest = torch.where(exhausted[:, None], fresh, rest)
    return torch.nn.functional.normalize(rest, dim=1)


def _orthogonalised(vectors: Tensor, basis: Tensor) -> Tensor:
    """Subtract the projections on the basis, one after the other: batched products take two to three times as long."""
    for index in range(basis.shape[1]):
        direction = basis[:, index]
        vectors = vectors.addcmul(direction, torch.linalg.vecdot(direction, vectors)[:, None], value=-1)
    return vectors
