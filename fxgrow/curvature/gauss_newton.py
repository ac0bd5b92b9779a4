"""Random gradients whose second moment is the Gauss-Newton matrix, for any convex loss of one output tensor."""

import torch
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction
from fxgrow.errors import AnalysisError

#: numbers in the loss's Hessians of one batch, above which they are not formed
_LARGEST = 1 << 28
_FIX = "use the metric that needs no Hessian of the loss: score=Gain(metric='fisher')"


def output_factors(loss_fn: LossFunction, output: object, batch: Batch) -> Tensor:
    """Return B ``(images, outputs, outputs)`` with ``B B^T`` the Hessian of each image's loss by the model's output.

    With z of independent standard normal numbers, the gradients that ``B z`` sends back through the model have the
    Gauss-Newton matrix as their second moment (Martens 2020, section 8; for a log-likelihood it is Fisher's matrix).

    Raises:
        AnalysisError: If the output is not one tensor ``(images, outputs)``, or the loss is not convex in it.
    """
    where = f"the output of batch {batch.index}"
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != batch.images:
        raise AnalysisError("it is not one tensor (images, outputs)", where=where, fix=_FIX)
    if output.numel() * output.shape[1] > _LARGEST:
        raise AnalysisError(f"{output.shape[1]} outputs are too many", where=where, fix=_FIX)
    hessians = _output_hessians(loss_fn, output, batch) * batch.images
    scale = hessians.diagonal(dim1=1, dim2=2).abs().amax(1)
    # the Hessian of a cross-entropy is singular: a little more than its rounding error makes it definite
    jitter = 1e3 * torch.finfo(output.dtype).eps * scale + torch.finfo(torch.float64).tiny
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(hessians + torch.diag_embed(jitter[:, None].expand(output.shape)))
    if bool(failed.any()):
        raise AnalysisError("the loss is not convex in it", where=where, fix=_FIX)
    return factors


def _output_hessians(loss_fn: LossFunction, output: Tensor, batch: Batch) -> Tensor:
    """Return the diagonal blocks of the mean loss's Hessian, ``(images, outputs, outputs)``, in float64.

    An image's loss depends on its own output only, so one product serves the same row of all images' blocks.
    """
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_fn(leaf, batch.target), leaf, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros(*output.shape, output.shape[1], dtype=torch.float64, device=output.device)
        rows = [
            torch.autograd.grad(gradient[:, index].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
            for index in range(output.shape[1])
        ]
    hessians = torch.stack(rows, dim=1).detach().double()
    return (hessians + hessians.transpose(1, 2)) / 2
