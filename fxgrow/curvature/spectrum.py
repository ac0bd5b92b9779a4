"""Spectra of the loss's Hessian: both ends, the trace, and the density between."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.curvature.capture import LossFunction
from fxgrow.curvature.hessian import HessianOperator
from fxgrow.curvature.lanczos import lanczos
from fxgrow.curvature.probe_data import PAIRS_IN_WORDS, CountSamples, read_batches
from fxgrow.curvature.selection import select_sites
from fxgrow.errors import AnalysisError
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap

#: the key of the whole model's spectrum
MODEL = "(model)"
#: up to this size a matrix is formed and everything is exact
_DENSE = 64


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a symmetric matrix, summed up.

    `nodes` and `weights` are a Gauss quadrature of the spectral density ``1/n sum_i delta(x - lambda_i)``: its moments
    are ``sum_k weights_k nodes_k^p``, and `density` shows it smoothed.
    """

    size: int
    least: float
    greatest: float
    trace: float
    nodes: Tensor
    weights: Tensor  #: they sum to 1
    #: unit eigenvector of the least eigenvalue, over the parameters in the order of ``named_parameters()``: the
    #: direction in which the loss curves down most; its sign says nothing
    escape: Tensor
    rounding: float = 0.0  #: what is nearer to zero than this cannot be told from zero in the products' precision

    @property
    def negative_share(self) -> float:
        """The estimated share of eigenvalues that are negative beyond rounding error."""
        return float(self.weights[self.nodes < -self.rounding].sum())

    def density(self, points: int = 256, width: float = 0.01) -> tuple[Tensor, Tensor]:
        """Return points from end to end, and the density there, each node spread to a normal distribution.

        Args:
            points: Number of points.
            width: Standard deviation of that distribution, in units of the spectrum's extent.
        """
        extent = max(self.greatest - self.least, torch.finfo(torch.float64).tiny)
        grid = torch.linspace(self.least - 3 * width * extent, self.greatest + 3 * width * extent, points).double()
        deviation = width * extent
        bumps = torch.exp(-((grid[:, None] - self.nodes) ** 2) / (2 * deviation**2))
        return grid, bumps @ self.weights / (deviation * (2 * torch.pi) ** 0.5)


@checks_arguments(AnalysisError, batches=PAIRS_IN_WORDS)
def spectra(
    traced: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    sites: Iterable[str] | None = (),
    steps: int = 32,
    repeats: int = 4,
    products: int = 64,
    tolerance: float = 1e-6,
    seed: int = 0,
    max_samples: int | None = None,
    samples: CountSamples | None = None,
) -> dict[str, Spectrum]:
    """Return the spectrum of the Hessian by all trained parameters, and by the weights of single sites.

    The products are fxgrow's own; the two ends are found by ``scipy.sparse.linalg.eigsh``, the trace by XTrace
    (Epperly, Tropp and Webber 2024) in curvlinops, and the density by stochastic Lanczos quadrature (Papyan 2020,
    algorithm 2, without its smoothing). All of it takes double backward, with attention on its math kernels. The
    model's least eigenvalue says nothing about single neurons: `fxgrow.analyze` is for those.

    Args:
        traced: The traced model, run in the mode it is in and left as it was.
        loss_fn: Maps output and target to the mean loss.
        batches: Pairs ``(inputs, target)``. With one batch only, the products are about twice as fast.
        sites: Module paths or patterns of sites to add to the whole model; None for all.
        steps: Lanczos steps of the density.
        repeats: Random starts of the density.
        products: Products spent on the trace, an even number.
        tolerance: Relative accuracy of the ends.
        seed: Seed of all random vectors.
        max_samples: Stop reading batches when there are this many samples.
        samples: Says how many samples a batch holds, as for `fxgrow.analyze`.

    Returns:
        Spectra by module path, the whole model's under ``"(model)"``.

    Raises:
        AnalysisError: If scipy or curvlinops is missing, the data or the loss does not fit, or there is no second
            derivative.
    """
    graph_module = unwrap(traced)
    read, _ = read_batches(
        graph_module, batches, seed=seed, max_samples=max_samples, samples=samples, targets=loss_fn is not None
    )
    trained = {name: value for name, value in graph_module.named_parameters() if value.requires_grad}
    chosen = {MODEL: list(trained.values())}
    if sites is None or tuple(sites):
        for path, site in select_sites(graph_module, sites).sites.items():
            if site.weight in trained:
                chosen[path] = [trained[site.weight]]
    if not trained:
        raise AnalysisError("no parameter of it is trained", where="the model", fix="call .requires_grad_()")
    found: dict[str, Spectrum] = {}
    for path, parameters in chosen.items():
        operator = HessianOperator(graph_module, loss_fn, read, parameters, seed=seed)
        if operator.shape[0] <= max(_DENSE, products):
            found[path] = _dense(operator)
        else:
            found[path] = _sparse(operator, steps, repeats, products, tolerance, seed)
    return found


def _dense(operator: HessianOperator) -> Spectrum:
    size = operator.shape[0]
    matrix = (operator @ torch.eye(size, dtype=operator.dtype, device=operator.device)).double().cpu()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    least, greatest = float(values[0]), float(values[-1])
    return Spectrum(
        size=size,
        least=least,
        greatest=greatest,
        trace=float(values.sum()),
        nodes=values,
        weights=torch.full((size,), 1 / size, dtype=torch.float64),
        escape=vectors[:, 0],
        rounding=_rounding(operator, least, greatest),
    )


def _rounding(operator: HessianOperator, least: float, greatest: float) -> float:
    """Return the usual bound on the error of a small eigenvalue: the norm times the size times the unit roundoff."""
    return max(abs(least), abs(greatest)) * operator.shape[0] * torch.finfo(operator.dtype).eps


def _sparse(
    operator: HessianOperator, steps: int, repeats: int, products: int, tolerance: float, seed: int
) -> Spectrum:
    size = operator.shape[0]
    least, greatest, escape = _ends(operator, tolerance, seed)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(repeats, size, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    values, coordinates = lanczos(operator.rows, start, steps).eigh()
    return Spectrum(
        size=size,
        least=least,
        greatest=greatest,
        trace=_trace(operator, products, seed),
        nodes=values.flatten(),
        weights=coordinates[:, 0].square().flatten() / repeats,
        escape=escape,
        rounding=_rounding(operator, least, greatest),
    )


def _ends(operator: HessianOperator, tolerance: float, seed: int) -> tuple[float, float, Tensor]:
    """Return the least and the greatest eigenvalue, and the eigenvector of the least."""
    try:
        from scipy.sparse.linalg import LinearOperator, eigsh
    except ImportError as error:
        raise _missing("scipy") from error

    def product(vector: Any) -> Any:
        moved = torch.as_tensor(vector, dtype=operator.dtype, device=operator.device).flatten()
        return (operator @ moved).double().cpu().numpy()

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64).numpy()
    linear = LinearOperator(operator.shape, matvec=product, dtype="float64")
    values, vectors = eigsh(linear, k=2, which="BE", tol=tolerance, v0=start)
    return float(values.min()), float(values.max()), torch.from_numpy(vectors[:, values.argmin()].copy())


def _trace(operator: HessianOperator, products: int, seed: int) -> float:
    try:
        from curvlinops import xtrace
    except ImportError as error:
        raise _missing("curvlinops-for-pytorch") from error
    with preserved_randomness(seed):
        return float(xtrace(operator, products - products % 2))


def _missing(package: str) -> AnalysisError:
    return AnalysisError(f"{package} is not installed", where="spectra", fix="pip install 'fxgrow[spectra]'")
