"""Eigen-scores with an error bar: found on one half of the data, evaluated on the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxgrow.curvature.lanczos import RitzPairs, Wanted, lanczos, start_vectors
from fxgrow.curvature.matrices import CurvatureMatrices
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.scores import SiteScores


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Extreme eigenpairs over all data and over each half, and the held-out quotients."""

    whole: RitzPairs
    half_values: tuple[Tensor, Tensor]
    held_out: Tensor
    stderr: Tensor
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
            reliability=spearman(*self.half_values),
            residuals=self.whole.residuals,
            iterations=self.iterations,
        )

    @classmethod
    def join(cls, parts: Sequence["CrossFit"]) -> "CrossFit":
        """Put the neurons of several parts of one site one after the other."""
        wholes = [part.whole for part in parts]
        fields = ("values", "vectors", "residuals")
        first, second = zip(*(part.half_values for part in parts), strict=True)
        return cls(
            whole=RitzPairs(*(torch.cat([getattr(whole, field) for whole in wholes]) for field in fields)),
            half_values=(torch.cat(first), torch.cat(second)),
            held_out=torch.cat([part.held_out for part in parts]),
            stderr=torch.cat([part.stderr for part in parts]),
            iterations=max(part.iterations for part in parts),
        )


def cross_fit(
    halves: tuple[CurvatureMatrices, CurvatureMatrices],
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
    of the mean of the single images' quotients (of the batches', where a site's input does not show the images). Any
    vector found on one half is honest on the other, so each half gets half the iterations (all of them where they make
    the result exact), and the error bar costs half as much again as the eigenvalues. Some of it comes back: the
    solver for all data starts between the halves' vectors, which is worth about two iterations.

    Args:
        halves: The matrices of a site's neurons over either half of the data.
        iterations: Lanczos iterations.
        seed: Seed of the first Lanczos vector.
        wanted: Which end of the spectrum. With ``"largest"`` values are absolute, and a held-out quotient is positive
            where it has the sign of the eigenvalue that its vector was found for.
        settled: Stop early when the ranking has settled (`fxgrow.curvature.lanczos.lanczos`).
    """
    whole = CurvatureMatrices(halves[0].map, (*halves[0].pieces, *halves[1].pieces))
    steps = iterations if iterations >= whole.map.features else (iterations + 1) // 2
    random = start_vectors(whole.map.neurons, whole.map.features, seed, whole.pieces[0].input)
    found = [lanczos(half, random, steps, settled=settled).pairs(wanted) for half in halves]
    tridiagonals = lanczos(whole, _warm_start(found, random), iterations, settled=settled)
    overall = tridiagonals.pairs(wanted)
    crossed = [half.quotients(pairs.vectors) for pairs, half in zip(found, reversed(halves), strict=True)]
    values = [pairs.values for pairs in found]
    if wanted == "largest":
        crossed = [
            (quotients * value.sign(), images) for value, (quotients, images) in zip(values, crossed, strict=True)
        ]
        values, overall = [value.abs() for value in values], replace(overall, values=overall.values.abs())
    held_out, stderr = mean_and_error(crossed)
    return CrossFit(overall, (values[0], values[1]), held_out, stderr, tridiagonals.diagonal.shape[1])


def _warm_start(halves: Sequence[RitzPairs], random: Tensor) -> Tensor:
    """Return a start between the halves' vectors, and a little of a random one, lest a direction be missing."""
    first, second = (pairs.vectors for pairs in halves)
    signs = torch.where(torch.linalg.vecdot(first, second) < 0, -1, 1).to(first)
    between = torch.nn.functional.normalize(first + signs[:, None] * second, dim=1)
    return between + 0.1 * torch.nn.functional.normalize(random, dim=1)


def mean_and_error(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the mean over halves of each half's mean over images, and its standard error.

    Args:
        samples: For each half, values ``(units, neurons)`` and the images in each unit ``(units,)``.

    Returns:
        ``mean = sum_u w_u q_u`` with ``w_u`` = images of u / (halves x images of its half), and
        ``stderr^2 = U / (U - 1) sum_u w_u^2 (q_u - mean)^2`` over all U units; each ``(neurons,)``.
    """
    values = torch.cat([value for value, _ in samples])
    weights = torch.cat([images / images.sum() for _, images in samples]).unsqueeze(1) / len(samples)
    mean = (weights * values).sum(0)
    variance = (weights.square() * (values - mean).square()).sum(0)
    return mean, (variance * len(values) / max(len(values) - 1, 1)).sqrt()
