"""What double backward needs: operations that have a second derivative."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxgrow.errors import AnalysisError


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
