"""The neuron's own block of the loss's Hessian: what splitting and branch matrices leave out is in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction, forward_pass
from fxgrow.curvature.cross_fit import least_eigenvalues
from fxgrow.curvature.lanczos import start_vectors
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.registry import Measurement, Score
from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import AnalysisError
from fxgrow.graph.sites import Site


@dataclass(frozen=True)
class HessianScore(Score):
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
        return measure_hessians(probe, {path: {site.weight: 1.0} for path, site in probe.sites.items()}, self.signs)


def measure_hessians(probe: Probe, coordinates: Mapping[str, Mapping[str, float]], signs: int) -> Measurement:
    """Find the least eigenvalue of each row's Hessian block, in coordinates that may move several weights at once.

    Args:
        probe: What to measure on.
        coordinates: For each site the weights that move with a row of it, each with its factor.
        signs: K of `HessianScore`.

    Raises:
        AnalysisError: If an operation of the model has no second derivative.
    """
    scores: dict[str, SiteScores] = {}
    refusals: dict[str, str] = {}
    for path, site in probe.sites.items():
        if not all(probe.graph_module.get_parameter(name).requires_grad for name in coordinates[path]):
            refusals[path] = "its weight is frozen"
            continue
        rows = site.rows(probe.graph_module).detach()
        found = hadamard_signs(site.neurons, signs).to(rows)
        start = start_vectors(site.neurons, site.features, probe.seed, rows)
        products = partial(_signed_products, probe, site, coordinates[path], found)
        shares = [(batch, batch.samples) for batch in probe.batches]
        scores[path] = least_eigenvalues(products, shares, start, probe.iterations, matrix="hessian", ranks=probe.ranks)
    return Measurement(scores, refusals)


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


def _signed_products(
    probe: Probe, site: Site, coordinates: Mapping[str, float], signs: Tensor, batch: Batch, vectors: Tensor
) -> Tensor:
    """Return ``1/K sum_k z^k * (H (z^k * V))`` over one batch, with one forward pass."""
    weights, factors = [probe.graph_module.get_parameter(name) for name in coordinates], list(coordinates.values())
    total = torch.zeros_like(vectors)
    with second_derivatives(), probe.forward(batch) as run:
        gradients = torch.autograd.grad(run.loss, weights, create_graph=True, materialize_grads=True)
        moved = [(found, factor) for found, factor in zip(gradients, factors, strict=True) if found.requires_grad]
        if not moved:  # the loss is linear in all weights, or ignores these
            return total
        for gradient, _ in moved:
            check_twice_differentiable(gradient)
        for sign in signs:
            cotangent = site.map.to_weight(sign[:, None] * vectors)
            products = torch.autograd.grad(
                [gradient for gradient, _ in moved],
                weights,
                [factor * cotangent for _, factor in moved],
                retain_graph=True,
                materialize_grads=True,
            )
            for product, factor in zip(products, factors, strict=True):
                total += factor * sign[:, None] * site.map.to_rows(product)
    return total / len(signs)


class HessianOperator:
    """``H = d2 L / d theta^2`` for the mean loss over all batches; ``operator @ vector`` multiplies.

    A product is one forward pass and two backward passes for each batch. With a single batch the graph of the first
    backward pass is kept, and each further product costs the second one only.

    Args:
        graph_module: The model, in the mode it is in; it is left as it was.
        loss_fn: Maps output and target to the mean loss.
        batches: The data.
        parameters: The parameters that theta is made of, in this order.
        seed: Seeds dropout, so that every product sees the same masks.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        loss_fn: LossFunction,
        batches: Sequence[Batch],
        parameters: Sequence[nn.Parameter],
        *,
        seed: int = 0,
    ) -> None:
        self.graph_module, self.loss_fn, self.batches, self.seed = graph_module, loss_fn, tuple(batches), seed
        self.parameters = tuple(parameters)
        self.samples = sum(batch.samples for batch in self.batches)
        self._kept: list[Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Both dimensions are the number of scalars in theta."""
        size = sum(parameter.numel() for parameter in self.parameters)
        return size, size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the vectors."""
        return self.parameters[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the vectors."""
        return self.parameters[0].device

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return H times a vector ``(size,)``, or times each column of a matrix ``(size, columns)``."""
        if vectors.ndim == 1:
            return self.rows(vectors[None])[0]
        return self.rows(vectors.T).T

    def rows(self, vectors: Tensor) -> Tensor:
        """Return H times each row of ``(vectors, size)``."""
        total = torch.zeros_like(vectors)
        with second_derivatives():
            for batch in self.batches:
                gradients = self._gradients(batch)
                for row, vector in enumerate(vectors):
                    total[row] += self._product(gradients, vector) * (batch.samples / self.samples)
        return total

    def _gradients(self, batch: Batch) -> list[Tensor]:
        """Return the gradient of one batch's loss, with the graph that it was computed by."""
        if self._kept is not None:
            return self._kept
        with forward_pass(self.graph_module, self.loss_fn, batch, seed=self.seed + batch.index) as run:
            found = torch.autograd.grad(run.loss, self.parameters, create_graph=True, materialize_grads=True)
        for gradient in found:
            if gradient.requires_grad:
                check_twice_differentiable(gradient)
                break  # the gradients share their graph
        if len(self.batches) == 1:
            self._kept = list(found)
        return list(found)

    def _product(self, gradients: list[Tensor], vector: Tensor) -> Tensor:
        parts = torch.split(vector, [parameter.numel() for parameter in self.parameters])
        moved = [
            (gradient, part.reshape(gradient.shape))
            for gradient, part in zip(gradients, parts, strict=True)
            if gradient.requires_grad
        ]
        if not moved:
            return torch.zeros_like(vector)
        products = torch.autograd.grad(
            [gradient for gradient, _ in moved],
            self.parameters,
            [part for _, part in moved],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([product.flatten() for product in products])


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Run attention on its math kernels, which have second derivatives, and say what to do where there is none.

    Raises:
        AnalysisError: If an operation has no second derivative.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise _no_second_derivative(str(error).splitlines()[0]) from error


def check_twice_differentiable(gradient: Tensor) -> None:
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
    return AnalysisError(what, where="the Hessian", fix=fix)
