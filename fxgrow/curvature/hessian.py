"""The neuron's own block of the loss's Hessian: what splitting and branch matrices leave out is in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.cross_fit import spearman
from fxgrow.curvature.lanczos import RitzPairs, lanczos, start_vectors
from fxgrow.curvature.matrices import deal_out
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import AnalysisError
from fxgrow.graph.sites import Site


@dataclass(frozen=True)
class Hessian(Score):
    """The least eigenvalue of the neuron's own Hessian block ``H_i = d2L / dW_i^2``.

    A Hessian-vector product with all neurons at once mixes them. With signs z^k, orthogonal rows of a Hadamard matrix,

        1/K sum_k z_i^k (H (z^k * V))_i  =  H_ii v_i + what remains of the other neurons

    and nothing remains once there are as many signs as neurons. That costs K products for each Lanczos iteration, at
    each site: this score is for small models and for checking the others. It takes double backward, for which attention
    is run on its math kernels.

    Args:
        signs: K; rounded up to a power of two. With fewer than the neurons the blocks are approximate.
    """

    name: ClassVar[str] = "hessian"
    sign: ClassVar[int] = -1

    signs: int = 1024

    def measure(self, probe: Probe) -> Measurement:
        """Score every site.

        Raises:
            AnalysisError: If an operation of the model has no second derivative, or there are fewer than two batches.
        """
        if len(probe.batches) < 2:
            raise AnalysisError(
                "it needs two batches, one for each half", where="score 'hessian'", fix="split the data"
            )
        halves = deal_out({batch.index: batch.images for batch in probe.batches})
        parts = [[batch for batch in probe.batches if halves[batch.index] == half] for half in (0, 1)]
        trained = {
            path: site
            for path, site in probe.sites.items()
            if probe.graph_module.get_parameter(site.weight).requires_grad
        }
        refusals = dict.fromkeys(set(probe.sites) - set(trained), "its weight is frozen")
        return Measurement({path: self._score(probe, site, parts) for path, site in trained.items()}, refusals)

    def _score(self, probe: Probe, site: Site, halves: Sequence[Sequence[Batch]]) -> SiteScores:
        whole = self._least(probe, site, probe.batches)
        found = [self._least(probe, site, half) for half in halves]
        quotients: list[Tensor] = []
        weights: list[float] = []
        for pairs, half in zip(found, reversed(halves), strict=True):
            images = sum(batch.images for batch in half)
            for batch in half:
                product = self._operator(probe, site, [batch])(pairs.vectors)
                quotients.append((pairs.vectors * product).sum(1).double().cpu())
                weights.append(batch.images / images / 2)
        values, shares = torch.stack(quotients), torch.tensor(weights, dtype=torch.float64)[:, None]
        mean = (shares * values).sum(0)
        error = ((shares * (values - mean)).square().sum(0) * len(values) / (len(values) - 1)).sqrt()
        return SiteScores(
            whole.values,
            mean,
            error,
            eigenvectors=whole.vectors.cpu(),
            sign=self.sign,
            reliability=spearman(found[0].values, found[1].values),
            residuals=whole.residuals,
        )

    def _least(self, probe: Probe, site: Site, batches: Sequence[Batch]) -> RitzPairs:
        rows = site.rows(probe.graph_module).detach()
        start = start_vectors(site.neurons, site.features, probe.seed, rows)
        return lanczos(self._operator(probe, site, batches), start, probe.iterations).pairs("least")

    def _operator(self, probe: Probe, site: Site, batches: Sequence[Batch]) -> Callable[[Tensor], Tensor]:
        signs = hadamard_signs(site.neurons, self.signs)

        def product(vectors: Tensor) -> Tensor:
            total = torch.zeros_like(vectors)
            for batch in batches:
                total += batch.images * _signed_products(probe, site, batch, vectors, signs.to(vectors))
            return total / sum(batch.images for batch in batches)

        return product


def hadamard_signs(neurons: int, count: int) -> Tensor:
    """Return signs ``(K, neurons)`` whose columns are orthogonal if K, a power of two, is at least `neurons`.

    K is `count` rounded up to a power of two, and no more than what makes the columns orthogonal.
    """
    full = 1 << (neurons - 1).bit_length()
    wanted = min(full, 1 << (max(count, 1) - 1).bit_length())
    matrix = torch.ones(1, 1)
    while len(matrix) < wanted:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[:, torch.arange(neurons) % wanted]


def _signed_products(probe: Probe, site: Site, batch: Batch, vectors: Tensor, signs: Tensor) -> Tensor:
    """Return ``1/K sum_k z^k * (H (z^k * V))`` over one batch, with one forward pass."""
    weight = probe.graph_module.get_parameter(site.weight)
    total = torch.zeros_like(vectors)
    with sdpa_kernel(SDPBackend.MATH), probe.forward(batch) as run, _second_derivatives():
        (gradient,) = torch.autograd.grad(run.loss, weight, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:  # the loss is linear in all weights, or ignores this one
            return total
        _check_twice_differentiable(gradient)
        for sign in signs:
            cotangent = site.map.to_weight(sign[:, None] * vectors)
            (product,) = torch.autograd.grad(gradient, weight, cotangent, retain_graph=True, materialize_grads=True)
            total += sign[:, None] * site.map.to_rows(product)
    return total / len(signs)


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Turn torch's message about a missing second derivative into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise _no_second_derivative(str(error).splitlines()[0]) from error


def _check_twice_differentiable(gradient: Tensor) -> None:
    """Find operations marked as once differentiable, which torch would silently treat as constant.

    Raises:
        AnalysisError: If there is one behind `gradient`.
    """
    pending, seen = [gradient.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("Error"):  # torch::autograd::Error stands where the derivative would be
            raise _no_second_derivative("it is marked as once differentiable")
        seen.add(node)
        pending.extend(source for source, _ in node.next_functions)


def _no_second_derivative(detail: str) -> AnalysisError:
    what = f"an operation of the model has no second derivative: {detail}"
    fix = "use score 'splitting' or 'branch', which need first derivatives only"
    return AnalysisError(what, where="score 'hessian'", fix=fix)
