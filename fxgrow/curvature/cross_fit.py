"""Eigen-scores with an error bar: found on one half of the data, evaluated on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fxgrow.curvature.lanczos import RitzPairs, Wanted, lanczos, start_vectors
from fxgrow.curvature.matrices import CurvatureMatrices, deal_out
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.statistics import joined, mean_and_error, spearman
from fxgrow.execution.ranks import ALONE, Ranks

#: of what the positions of a half carry, how much is enough to find vectors on, whose worth all positions then tell
_SHARE = 0.98
#: and the part of these positions that is looked at first, for vectors to begin near
_FEW = 1 / 16
#: the part of what the order of values may lack that the order of a half may: what vectors are worth settles later
_STRICT = 1 / 4


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Extreme eigenpairs over all data and over each half, and the held-out quotients."""

    whole: RitzPairs
    half_values: tuple[Tensor, ...]  #: of either half; empty where the data cannot be halved
    held_out: Tensor | None
    stderr: Tensor | None
    iterations: int  #: Lanczos iterations that were made

    def scores(self, *, sign: int, matrix: str) -> SiteScores:
        """Return the scores of the site."""
        return SiteScores(
            values=self.whole.values,
            held_out=self.held_out,
            stderr=self.stderr,
            matrix=matrix,
            eigenvectors=self.whole.vectors.cpu(),
            sign=sign,
            reliability=spearman(*self.half_values) if self.half_values else None,
            residuals=self.whole.residuals,
            iterations=self.iterations,
        )

    @classmethod
    def join(cls, parts: Sequence["CrossFit"]) -> "CrossFit":
        """Put the neurons of several parts of one site one after the other."""
        wholes = [part.whole for part in parts]
        fields = ("values", "vectors", "residuals")
        return cls(
            whole=RitzPairs(*(torch.cat([getattr(whole, field) for whole in wholes]) for field in fields)),
            half_values=tuple(torch.cat(values) for values in zip(*(part.half_values for part in parts), strict=True)),
            held_out=_joined([part.held_out for part in parts]),
            stderr=_joined([part.stderr for part in parts]),
            iterations=max(part.iterations for part in parts),
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def cross_fit(
    halves: Sequence[CurvatureMatrices],
    *,
    iterations: int,
    seed: int,
    wanted: Wanted = "least",
    settled: float | None = None,
) -> CrossFit:
    """Return extreme eigenvalues of S_i over all data, with the held-out quotient and its standard error.

    With A and B the two halves, and v_A, v_B the eigenvectors found on each,

        held_out = 1/2 (v_A^T S_B v_A + v_B^T S_A v_B)

    which, unlike the eigenvalue, is not drawn away from zero by the search over directions. Its standard error is that
    of the mean of the single samples' quotients (of the batches', where a site's input does not show the samples). Any
    vector found on one half is honest on the other, so each half gets half the iterations (all of them where they make
    the result exact), and the error bar costs half as much again as the eigenvalues. With `settled`, they look at the
    few positions alone that carry nearly all of a matrix (`CapturedCall.heaviest`); quotients are over all of them.
    Some of the cost comes back: the solver for all data starts between the halves' vectors, and compares its first
    order with theirs.

    Args:
        halves: The matrices of a site's neurons over either half of the data; or over all of it, where it cannot be
            halved: then there is no held-out quotient.
        iterations: Lanczos iterations.
        seed: Seed of the first Lanczos vector.
        wanted: Which end of the spectrum. With ``"largest"`` values are absolute, and a held-out quotient is positive
            where it has the sign of the eigenvalue that its vector was found for.
        settled: Stop early when the ranking has settled (`fxgrow.curvature.lanczos.lanczos`).
    """
    ranks = halves[0].ranks
    whole = CurvatureMatrices(halves[0].map, tuple(call for half in halves for call in half.captured), ranks)
    steps = iterations if iterations >= whole.map.features else (iterations + 1) // 2
    random = start_vectors(whole.map.neurons, whole.map.features, seed, whole.captured[0].input)
    if len(halves) == 1:
        tridiagonals = lanczos(whole, random, iterations, settled=settled)
        overall = tridiagonals.pairs(wanted)
        overall = replace(overall, values=overall.values.abs()) if wanted == "largest" else overall
        return CrossFit(overall, (), None, None, tridiagonals.diagonal.shape[1])
    found = [_search(half, random, steps, wanted, settled) for half in halves]
    tridiagonals = lanczos(
        whole,
        _warm_start(found, random),
        iterations,
        settled=settled,
        apart=1,
        known=(found[0].values + found[1].values) / 2 if wanted == "least" else None,
    )
    overall = tridiagonals.pairs(wanted)
    crossed = [half.quotients(pairs.vectors) for pairs, half in zip(found, reversed(halves), strict=True)]
    values = [pairs.values for pairs in found]
    if wanted == "largest":
        crossed = [
            (quotients * value.sign(), samples) for value, (quotients, samples) in zip(values, crossed, strict=True)
        ]
        values, overall = [value.abs() for value in values], replace(overall, values=overall.values.abs())
    held_out, stderr = mean_and_error(crossed, ranks)
    return CrossFit(overall, (values[0], values[1]), held_out, stderr, tridiagonals.diagonal.shape[1])


def _search(half: CurvatureMatrices, random: Tensor, steps: int, wanted: Wanted, settled: float | None) -> RitzPairs:
    """Return the pairs of a half: where the solver may stop early, of the positions that carry most of it."""
    if settled is None or steps >= half.map.features:
        return lanczos(half, random, steps).pairs(wanted)
    heavy, start, apart = half.heaviest(_SHARE), random, 2
    if heavy.positions > _FEW * half.positions:  # fewer cost little anyway
        few = lanczos(heavy.few(_FEW), random, steps, settled=settled).pairs(wanted)
        start, apart = _near(few.vectors, random), 1
    strict = 1 - _STRICT * (1 - settled)
    return lanczos(heavy, start, steps, settled=strict, apart=apart, quotient=heavy.along).pairs(wanted)


def _warm_start(halves: Sequence[RitzPairs], random: Tensor) -> Tensor:
    """Return a start between the halves' vectors."""
    first, second = (pairs.vectors for pairs in halves)
    signs = torch.where(torch.linalg.vecdot(first, second) < 0, -1, 1).to(first)
    return _near(first + signs[:, None] * second, random)


def _near(vectors: Tensor, random: Tensor) -> Tensor:
    """Return a start near some vectors, and a little of a random one, lest a direction be missing."""
    normalize = torch.nn.functional.normalize
    return normalize(vectors, dim=1) + 0.1 * normalize(random, dim=1)


Share = TypeVar("Share")


def least_eigenvalues(
    operator: Callable[[Share, Tensor], Tensor],
    shares: Sequence[tuple[Share, int]],
    start: Tensor,
    iterations: int,
    *,
    matrix: str,
    ranks: Ranks = ALONE,
) -> SiteScores:
    """Return least eigenvalues over shares of the data, and held-out quotients of vectors found on either half.

    The standard error is that over shares. One share alone is not cut: then there is no held-out value.

    Args:
        operator: Maps a share and vectors ``(problems, size)`` to the products for the mean loss over that share.
        shares: The shares of the data, each with the number of its samples.
        start: Where Lanczos starts, ``(problems, size)``.
        iterations: Lanczos iterations.
        matrix: What the matrices are called.
        ranks: The ranks that have shares of the data.
    """
    whole = _least(operator, shares, start, iterations, ranks)
    vectors = whole.vectors.cpu()
    first, sizes = ranks.numbered([samples for _, samples in shares])
    if len(sizes) == 1:
        return SiteScores(whole.values, None, None, matrix, vectors, residuals=whole.residuals)
    halves = deal_out(sizes)
    parts = [[share for index, share in enumerate(shares, first) if halves[index] == half] for half in (0, 1)]
    found = [_least(operator, part, start, iterations, ranks) for part in parts]
    crossed = [_quotients(operator, part, pairs.vectors) for pairs, part in zip(found, reversed(parts), strict=True)]
    held_out, error = mean_and_error(crossed, ranks)
    reliability = spearman(found[0].values, found[1].values)
    return SiteScores(
        whole.values, held_out, error, matrix, vectors, reliability=reliability, residuals=whole.residuals
    )


def _least(
    operator: Callable[[Share, Tensor], Tensor],
    shares: Sequence[tuple[Share, int]],
    start: Tensor,
    iterations: int,
    ranks: Ranks,
) -> RitzPairs:
    total = ranks.total(sum(samples for _, samples in shares))

    def mean(vectors: Tensor) -> Tensor:
        products = torch.zeros_like(vectors)
        for share, samples in shares:
            products += operator(share, vectors) * (samples / total)
        return ranks.sum(products)

    return lanczos(mean, start, iterations).pairs("least")


def _quotients(
    operator: Callable[[Share, Tensor], Tensor], shares: Sequence[tuple[Share, int]], vectors: Tensor
) -> tuple[Tensor, Tensor]:
    found = [
        ((vectors * operator(share, vectors)).sum(1).double().cpu()[None], torch.tensor([float(samples)]).double())
        for share, samples in shares
    ]
    return joined(found, len(vectors))
