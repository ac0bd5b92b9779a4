"""The predicted decrease of the loss by a pseudo-layer: a local quadratic model, fitted and tested on two halves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.candidates import CandidateFeatures, fit_candidates, part_moments
from fxgrow.curvature.capture import ForwardPass, LossFunction
from fxgrow.curvature.matrices import CapturedCall, in_halves
from fxgrow.curvature.probe import Probe, solving
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.statistics import joined, mean_and_error, spearman
from fxgrow.errors import AnalysisError
from fxgrow.execution.ranks import Ranks

Metric = Literal["gauss-newton", "fisher"]


@dataclass(frozen=True)
class GainScore(Score):
    """How much a small pseudo-layer on the site's features would lower the loss at each of them.

    For some candidate features psi = GELU(W1 h + b1), random, without what is linear in h,

        g_k = 1/N sum_n sum_t delta_kt psi_t                          first order
        H_k = 1/N sum_n E[(sum_t d_kt psi_t)(sum_t d_kt psi_t)^T]     the metric
        gain_k = 1/2 g_k^T (H_k + damping)^-1 g_k

    with delta the gradient of a sample's loss at the feature, and d either a random gradient whose second moment is the
    Gauss-Newton matrix, or delta itself (the empirical Fisher matrix). `held_out` is
    ``1/2 g_A^T (H + damping)^-1 g_B`` for the two halves of the data, so that noise averages to zero.

    Args:
        candidates: How many candidate features; the same for all features of a site.
        damping: Added to the diagonal of H_k, in units of its mean diagonal.
        metric: ``"gauss-newton"``, for a model with one output ``(samples, outputs)`` and a loss that is convex in it,
            or ``"fisher"``, for any.
        draws: Random gradients for each sample, of the Gauss-Newton metric.
    """

    name: ClassVar[str] = "gain"

    candidates: int = 16
    damping: float = 0.01
    metric: Metric = "gauss-newton"
    draws: int = 4

    def __post_init__(self) -> None:
        if self.metric not in ("gauss-newton", "fisher"):
            fix = "choose 'gauss-newton' or 'fisher'"
            raise AnalysisError("no such metric", where=f"metric {self.metric!r}", fix=fix)
        if self.candidates < 1 or self.draws < 1 or not self.damping > 0:
            what = f"candidates={self.candidates}, draws={self.draws}, damping={self.damping} are not all positive"
            raise AnalysisError(what, where="score 'gain'", fix="give numbers above 0")

    def measure(self, probe: Probe) -> Measurement:
        """Score every site, as many at once as the memory allows."""
        scores: dict[str, SiteScores] = {}
        refusals: dict[str, str] = {}
        readings = [Reading.of_features(probe.graph_module, site) for site in probe.sites.values()]
        for group in self._groups(probe, readings):
            candidates, refused = fit_candidates(probe, group, self.candidates)
            refusals.update(refused)
            for reading, moments in self._moments(probe, candidates).items():
                scores[reading.site.path] = moments.scores(self.damping, probe.ranks)
        return Measurement({path: scores[path] for path in probe.sites if path in scores}, refusals)

    def _groups(self, probe: Probe, readings: Sequence[Reading]) -> Iterator[list[Reading]]:
        """Yield readings whose moments fit the memory together, at least one at a time."""
        group: list[Reading] = []
        size = 0
        for reading in readings:
            neurons = reading.map.neurons
            needed = 8 * (neurons * self.candidates * (probe.samples + self.candidates) + 2 * neurons**2)
            if group and size + needed > probe.max_memory:
                yield group
                group, size = [], 0
            group.append(reading)
            size += needed
        if group:
            yield group

    def _moments(self, probe: Probe, candidates: Mapping[Reading, CandidateFeatures]) -> "dict[Reading, _Moments]":
        """Run the data once: first moments by sample, and the metric."""
        found: dict[Reading, _Moments] = {reading: _Moments() for reading in candidates}
        nodes = list(dict.fromkeys(node for reading in candidates for node in reading.differentiated))
        for batch in probe.batches if nodes else ():
            with probe.forward(batch, differentiable=nodes) as run:
                drawn = self._drawn_gradients(probe, run, batch, nodes)
                gradients = run.gradients(nodes)
                for reading, moments, half, call in _part_moments(probe, run, batch, candidates, gradients):
                    found[reading].add(half, moments, call)
                for metric_gradients in drawn or [gradients]:
                    for reading, moments, _, _ in _part_moments(probe, run, batch, candidates, metric_gradients):
                        found[reading].add_metric(moments, 1 / max(len(drawn), 1))
        return found

    def _drawn_gradients(
        self, probe: Probe, run: ForwardPass, batch: Batch, nodes: list[fx.Node]
    ) -> list[dict[fx.Node, Tensor]]:
        """Return random gradients of the Gauss-Newton metric, scaled as those of the mean loss; none for Fisher's."""
        if self.metric == "fisher":
            return []
        generator = torch.Generator().manual_seed(probe.seed + batch.index)
        factors = output_factors(probe.loss_fn, run.output, batch)
        drawn = []
        for _ in range(self.draws):
            z = torch.randn(factors.shape[:2], generator=generator, dtype=torch.float64).to(factors)
            cotangent = (torch.bmm(factors, z[:, :, None]).squeeze(2) / batch.samples).to(run.output)
            drawn.append(run.gradients(nodes, cotangent=cotangent, retain_graph=True))
        return drawn


def _part_moments(
    probe: Probe,
    run: ForwardPass,
    batch: Batch,
    candidates: Mapping[Reading, CandidateFeatures],
    gradients: Mapping[fx.Node, Tensor],
) -> Iterator[tuple[Reading, Tensor, int, CapturedCall]]:
    """Yield for each site, and each half that the batch has a part in, the moments of its parts."""
    for reading, features in candidates.items():
        captured = reading.captured(run.values, gradients, batch, probe.dimensions(reading.inputs))
        with solving(probe):
            parts = [
                (part_moments(features, members, half).double().cpu(), half, members[0])
                for half, members in in_halves(probe.halves, captured) or []
            ]
        for moments, half, call in parts:
            yield reading, moments, half, call


@dataclass
class _Moments:
    """First moments of each sample, by half, and the metric summed over all samples."""

    first: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    samples: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    metric: Tensor | None = None

    def add(self, half: int, moments: Tensor, call: CapturedCall) -> None:
        """Add the moments of one batch, ``(parts, neurons, candidates)``; `call` says how many samples they are of."""
        per_part = call.samples / call.parts
        self.first[half].append(moments / per_part)
        self.samples[half].append(torch.full((call.parts,), per_part, dtype=torch.float64))

    def add_metric(self, moments: Tensor, share: float) -> None:
        """Add the outer products of the moments of random gradients."""
        neurons_first = moments.transpose(0, 1)
        products = share * torch.bmm(neurons_first.transpose(1, 2), neurons_first)
        self.metric = products if self.metric is None else self.metric + products

    def scores(self, damping: float, ranks: Ranks) -> SiteScores:
        """Return 1/2 g^T (H + damping)^-1 g and its cross-fitted version."""
        assert self.metric is not None  # moments are added together with their metric
        halves = [
            joined(zip(first, samples, strict=True), *self.metric.shape[:2])
            for first, samples in zip(self.first, self.samples, strict=True)
        ]
        sums = [ranks.sum((first * samples[:, None, None]).sum(0)) for first, samples in halves]
        counts = ranks.sum(torch.stack([samples.sum() for _, samples in halves])).tolist()
        metric = _damped(ranks.sum(self.metric) / sum(counts), damping)
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        steps = [_solved(metric, mean) for mean in means]
        whole = (sums[0] + sums[1]) / sum(counts)
        crossed = [
            (0.5 * (first * step).sum(2), samples)
            for (first, samples), step in zip(halves, reversed(steps), strict=True)
        ]
        own = [0.5 * (mean * step).sum(1) for mean, step in zip(means, steps, strict=True)]
        held_out, error = mean_and_error(crossed, ranks)
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


#: numbers in the loss's Hessians of one batch, above which they are not formed
_LARGEST = 1 << 28
_FIX = "use the metric that needs no Hessian of the loss: score=GainScore(metric='fisher')"


def output_factors(loss_fn: LossFunction, output: object, batch: Batch) -> Tensor:
    """Return B ``(samples, outputs, outputs)`` with ``B B^T`` the Hessian of each sample's loss by the model's output.

    With z of independent standard normal numbers, the gradients that ``B z`` sends back through the model have the
    Gauss-Newton matrix as their second moment (Martens 2020, section 8; for a log-likelihood it is Fisher's matrix).

    Raises:
        AnalysisError: If the output is not one tensor ``(samples, outputs)``, or the loss is not convex in it.
    """
    where = f"the output of batch {batch.index}"
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != batch.samples:
        raise AnalysisError("it is not one tensor (samples, outputs)", where=where, fix=_FIX)
    if loss_fn is None:
        raise AnalysisError("the loss is inside the model", where=where, fix=_FIX)
    if output.numel() * output.shape[1] > _LARGEST:
        raise AnalysisError(f"{output.shape[1]} outputs are too many", where=where, fix=_FIX)
    leaf, loss = _loss_of_output(loss_fn, output, batch.target)
    rounding = 1e3 * torch.finfo(leaf.dtype).eps
    # where a model is certain, the Hessian is less than the rounding error of its probabilities
    noise = rounding * _curvature_at_zero(loss_fn, leaf, batch)
    hessians = _output_hessians(leaf, loss, batch, noise)
    scale = hessians.diagonal(dim1=1, dim2=2).abs().amax(1)
    # the Hessian of a cross-entropy is singular: a little more than its rounding error makes it definite
    factors, failed = _cholesky(hessians, rounding * scale)
    if bool(failed.any()):
        factors, failed = _cholesky(hessians, torch.maximum(rounding * scale.max(), noise).expand_as(scale))
    if bool(failed.any()):
        raise AnalysisError("the loss is not convex in it", where=where, fix=_FIX)
    return factors


def _cholesky(matrices: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of ``(samples, outputs, outputs)`` with ``jitter`` added to each diagonal, and which failed."""
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
    added = (jitter + torch.finfo(torch.float64).tiny)[:, None, None]
    factors, failed = torch.linalg.cholesky_ex(matrices + added * identity)
    return factors, failed


def _loss_of_output(loss_fn: Callable[[Any, Any], Tensor], output: Tensor, target: object) -> tuple[Tensor, Tensor]:
    """Return the output as a leaf, and the loss of it.

    They are float64, unless the loss holds tensors of its own (class weights) that only go with the output's dtype.
    """
    with torch.enable_grad():
        leaf = output.detach().double().requires_grad_()
        try:
            return leaf, loss_fn(leaf, target)
        except RuntimeError:
            leaf = output.detach().requires_grad_()
            return leaf, loss_fn(leaf, target)


def _curvature_at_zero(loss_fn: Callable[[Any, Any], Tensor], leaf: Tensor, batch: Batch) -> Tensor:
    """Return about how large second derivatives of a sample's loss are where the model is not certain of anything."""
    with torch.enable_grad():
        zero = torch.zeros_like(leaf).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_fn(zero, batch.target), zero, create_graph=True)
        if not gradient.requires_grad:
            return gradient.new_zeros((), dtype=torch.float64)
        (product,) = torch.autograd.grad((gradient * _probe(leaf)).sum(), zero, materialize_grads=True)
    return (product.double() * batch.samples).nan_to_num().abs().max()


def _probe(output: Tensor) -> Tensor:
    """Return numbers of opposite signs for every other sample, different from one output to the next."""
    probe = torch.linspace(0.5, 1, output.shape[1], device=output.device).expand_as(output).clone().to(output)
    probe[1::2] *= -1
    return probe


def _output_hessians(leaf: Tensor, loss: Tensor, batch: Batch, noise: Tensor) -> Tensor:
    """Return the Hessian of each sample's loss by its output, ``(samples, outputs, outputs)``, in float64.

    A sample's loss depends on its own output only, so one product serves the same row of all samples' blocks. That it
    does is checked by a product with opposite signs for every other sample.
    """
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros(*leaf.shape, leaf.shape[1], dtype=torch.float64, device=leaf.device)
        rows = [
            torch.autograd.grad(gradient[:, index].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
            for index in range(leaf.shape[1])
        ]
        probe = _probe(leaf)
        (product,) = torch.autograd.grad((gradient * probe).sum(), leaf, materialize_grads=True)
    hessians = torch.stack(rows, dim=1).detach().double() * batch.samples
    own = torch.einsum("nij,ni->nj", hessians, probe.double())
    if bool(((product * batch.samples - own).abs() > 1e-3 * hessians.abs().max() + noise).any()):
        raise AnalysisError("it compares samples with each other", where=f"the loss of batch {batch.index}", fix=_FIX)
    return (hessians + hessians.transpose(1, 2)) / 2
