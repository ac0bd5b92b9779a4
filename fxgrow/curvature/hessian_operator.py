"""The Hessian of the mean loss by some parameters, as a linear operator on their concatenation."""

from collections.abc import Sequence

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction, forward_pass
from fxgrow.curvature.second_order import check_twice_differentiable, second_derivatives


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
        self.images = sum(batch.images for batch in self.batches)
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
                    total[row] += self._product(gradients, vector) * (batch.images / self.images)
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
