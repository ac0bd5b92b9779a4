"""The neuron's own block of the loss's Hessian: what splitting and branch matrices leave out is in it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.batchwise import least_eigenvalues
from fxgrow.curvature.lanczos import start_vectors
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.curvature.second_order import check_twice_differentiable, second_derivatives
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
        """Score every site whose weight is trained.

        Raises:
            AnalysisError: If an operation of the model has no second derivative.
        """
        scores: dict[str, SiteScores] = {}
        refusals: dict[str, str] = {}
        for path, site in probe.sites.items():
            if probe.graph_module.get_parameter(site.weight).requires_grad:
                scores[path] = self._score(probe, site)
            else:
                refusals[path] = "its weight is frozen"
        return Measurement(scores, refusals)

    def _score(self, probe: Probe, site: Site) -> SiteScores:
        rows = site.rows(probe.graph_module).detach()
        signs = hadamard_signs(site.neurons, self.signs).to(rows)
        start = start_vectors(site.neurons, site.features, probe.seed, rows)

        def operator(batch: Batch, vectors: Tensor) -> Tensor:
            return _signed_products(probe, site, batch, vectors, signs)

        return least_eigenvalues(operator, probe.batches, start, probe.iterations, matrix="hessian")


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
    with second_derivatives(), probe.forward(batch) as run:
        (gradient,) = torch.autograd.grad(run.loss, weight, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:  # the loss is linear in all weights, or ignores this one
            return total
        check_twice_differentiable(gradient)
        for sign in signs:
            cotangent = site.map.to_weight(sign[:, None] * vectors)
            (product,) = torch.autograd.grad(gradient, weight, cotangent, retain_graph=True, materialize_grads=True)
            total += sign[:, None] * site.map.to_rows(product)
    return total / len(signs)
