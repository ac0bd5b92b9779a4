"""Eigen-scores with an error bar: found on one half of the data, evaluated on the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.lanczos import RitzPairs, Wanted, lanczos, start_vectors
from fxgrow.curvature.matrices import CurvatureMatrices, deal_out
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.statistics import mean_and_error, spearman
from fxgrow.execution.structures import chosen


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
    of the mean of the single samples' quotients (of the batches', where a site's input does not show the samples). Any
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
    whole = CurvatureMatrices(halves[0].map, (*halves[0].captured, *halves[1].captured))
    steps = iterations if iterations >= whole.map.features else (iterations + 1) // 2
    random = start_vectors(whole.map.neurons, whole.map.features, seed, whole.captured[0].input)
    found = [lanczos(half, random, steps, settled=settled).pairs(wanted) for half in halves]
    tridiagonals = lanczos(whole, _warm_start(found, random), iterations, settled=settled)
    overall = tridiagonals.pairs(wanted)
    crossed = [half.quotients(pairs.vectors) for pairs, half in zip(found, reversed(halves), strict=True)]
    values = [pairs.values for pairs in found]
    if wanted == "largest":
        crossed = [
            (quotients * value.sign(), samples) for value, (quotients, samples) in zip(values, crossed, strict=True)
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


#: maps vectors ``(problems, size)`` to the products for the mean loss over one batch
BatchOperator = Callable[[Batch, Tensor], Tensor]


def least_eigenvalues(
    operator: BatchOperator, batches: Sequence[Batch], start: Tensor, iterations: int, *, matrix: str
) -> SiteScores:
    """Return least eigenvalues over all batches, and held-out quotients of vectors found on either half.

    The standard error is that over batches. A single batch is cut in two first.
    """
    batches = halved(batches[0]) if len(batches) == 1 else tuple(batches)
    halves = deal_out({batch.index: batch.samples for batch in batches})
    parts = [[batch for batch in batches if halves[batch.index] == half] for half in (0, 1)]
    whole = _least(operator, batches, start, iterations)
    found = [_least(operator, part, start, iterations) for part in parts]
    crossed = [_quotients(operator, part, pairs.vectors) for pairs, part in zip(found, reversed(parts), strict=True)]
    held_out, error = mean_and_error(crossed)
    return SiteScores(
        values=whole.values,
        held_out=held_out,
        stderr=error,
        matrix=matrix,
        eigenvectors=whole.vectors.cpu(),
        sign=-1,
        reliability=spearman(found[0].values, found[1].values),
        residuals=whole.residuals,
    )


def halved(batch: Batch) -> tuple[Batch, Batch]:
    """Cut a batch in two: every tensor of inputs and target with one entry for each sample, even ones and odd ones."""
    return _part(batch, 0), _part(batch, 1)


def _part(batch: Batch, half: int) -> Batch:
    samples = range(half, batch.samples, 2)
    inputs, target = (chosen(value, samples, of=batch.samples) for value in (batch.inputs, batch.target))
    return replace(batch, index=half, inputs=inputs, target=target, samples=len(samples))


def _least(operator: BatchOperator, batches: Sequence[Batch], start: Tensor, iterations: int) -> RitzPairs:
    samples = sum(batch.samples for batch in batches)

    def mean(vectors: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for batch in batches:
            total += operator(batch, vectors) * (batch.samples / samples)
        return total

    return lanczos(mean, start, iterations).pairs("least")


def _quotients(operator: BatchOperator, batches: Sequence[Batch], vectors: Tensor) -> tuple[Tensor, Tensor]:
    values = [(vectors * operator(batch, vectors)).sum(1).double().cpu() for batch in batches]
    return torch.stack(values), torch.tensor([batch.samples for batch in batches], dtype=torch.float64)
