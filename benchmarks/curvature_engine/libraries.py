"""The same work by other libraries: least eigenvalues of single neurons, Hessian-vector products, the model's ends."""

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from curvlinops import HessianLinearOperator
from measuring.machine import Row, cpu_seconds, row, seconds
from scipy.sparse.linalg import eigsh
from torch import nn

from curvature_engine.models import batch
from fxgrow.curvature import analyze, spectra
from fxgrow.curvature.hessian import HessianOperator
from fxgrow.curvature.probe_data import read_batches


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=64, patch_size=16, num_classes=10, embed_dim=64 if quick else 192, depth=2 if quick else 4, num_heads=4
    ).eval()
    timm.layers.set_fused_attn(False)
    for block in model.blocks:
        block.attn.fused_attn = False  # the others have no second derivative of the fused kernels
    x, y = batch(16 if quick else 32, 64, classes=10)
    yield from single_neurons(model, x, y, sample=1 if quick else 3)
    yield from products(model, x, y)
    yield from ends(model, x, y)


def single_neurons(model: nn.Module, x: torch.Tensor, y: torch.Tensor, sample: int) -> Iterator[Row]:
    """Yield the processor time for each neuron's least eigenvalue, by fxgrow and by curvlinops with eigsh."""
    graph_module = torch.fx.symbolic_trace(model)
    own = cpu_seconds(lambda: analyze(graph_module, F.cross_entropy, [(x, y)], sites=["blocks.*.mlp.fc1"]))
    neurons = sum(block.mlp.fc1.out_features for block in model.blocks)
    operators = [_neuron_operator(model, x, y, neuron) for neuron in range(sample)]
    theirs = cpu_seconds(lambda: [eigsh(o.to_scipy(), k=1, which="SA", tol=1e-4) for o in operators]) / sample
    yield row(f"fxgrow, {neurons:,} neurons with held-out values, processor seconds each", f"{own / neurons:.2e}")
    yield row(f"curvlinops and eigsh, mean of {sample} neurons, processor seconds each", f"{theirs:.2e}")
    yield row("curvlinops and eigsh over fxgrow, by neuron", f"{theirs * neurons / own:.1e}", "at least 1e4")


class _OneRow(nn.Module):
    """A Linear of which one row is a parameter by itself."""

    def __init__(self, linear: nn.Linear, neuron: int) -> None:
        super().__init__()
        self.linear, self.neuron = linear, neuron
        self.row = nn.Parameter(linear.weight[neuron].detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the map with that row."""
        weight = self.linear.weight.detach().clone()
        weight[self.neuron] = self.row
        return F.linear(x, weight, self.linear.bias)


def _neuron_operator(model: nn.Module, x: torch.Tensor, y: torch.Tensor, neuron: int) -> HessianLinearOperator:
    import copy

    changed = copy.deepcopy(model)
    changed.blocks[0].mlp.fc1 = one = _OneRow(changed.blocks[0].mlp.fc1, neuron)
    return HessianLinearOperator(changed, nn.CrossEntropyLoss(), [one.row], [(x, y)], check_deterministic=False)


def products(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Iterator[Row]:
    """Yield the time of a whole-model Hessian-vector product, over other libraries'."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    graph_module = torch.fx.symbolic_trace(model)
    own = HessianOperator(graph_module, F.cross_entropy, read_batches(graph_module, [(x, y)], seed=0)[0], parameters)
    vector = torch.randn(own.shape[0])
    own @ vector
    mine = seconds(lambda: own @ vector, 5)
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
    yield row(
        "Hessian-vector product over curvlinops'", f"{mine / seconds(lambda: operator @ vector, 5):.2f}", "at most 0.6"
    )
    other = pyhessian_product(model, x, y, parameters, vector)
    if other is None:
        yield row("Hessian-vector product over PyHessian's", "PyHessian is not installed", "at most 1.1")
    else:
        yield row("Hessian-vector product over PyHessian's", f"{mine / seconds(other, 5):.2f}", "at most 1.1")


def pyhessian_product(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, parameters: list[nn.Parameter], vector: torch.Tensor
) -> Callable[[], Any] | None:
    """Return PyHessian's Hessian-vector product on a retained graph, if it is installed."""
    try:
        from pyhessian import hessian
        from pyhessian.utils import hessian_vector_product
    except ImportError:
        return None
    computation = hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
    parts = [
        part.reshape(p.shape) for part, p in zip(vector.split([p.numel() for p in parameters]), parameters, strict=True)
    ]
    return lambda: hessian_vector_product(computation.gradsH, computation.params, parts)


def ends(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Iterator[Row]:
    """Yield the model's extreme eigenvalues and what they took, by each library, at one tolerance."""
    graph_module = torch.fx.symbolic_trace(model)
    found: list[Any] = []
    own = seconds(
        lambda: found.append(
            spectra(graph_module, F.cross_entropy, [(x, y)], tolerance=1e-3, products=2, steps=2, repeats=1)
        ),
        1,
    )
    spectrum = found[-1]["(model)"]
    yield row(
        "fxgrow, least and greatest eigenvalue of the model",
        f"{spectrum.least:.4f}, {spectrum.greatest:.4f} in {own:.1f} s",
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
    taken = seconds(
        lambda: found.append(eigsh(operator.to_scipy(), k=2, which="BE", tol=1e-3, return_eigenvectors=False)), 1
    )
    yield row("curvlinops and eigsh", f"{found[-1].min():.4f}, {found[-1].max():.4f} in {taken:.1f} s")
    yield from eigenthings(model, x, y)


def eigenthings(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Iterator[Row]:
    """Yield what hessian-eigenthings and PyHessian find, where they are installed."""
    try:
        from hessian_eigenthings import HessianOperator as Operator
        from hessian_eigenthings import lanczos, supervised_loss
    except ImportError:
        yield row("hessian-eigenthings", "not installed, or older than 1.0")
    else:
        operator = Operator(model, [(x, y)], supervised_loss(nn.CrossEntropyLoss()))
        found: list[float] = []

        def solve() -> None:
            found.extend(
                float(lanczos(operator, k=1, which=which, tol=1e-3, max_iter=100, seed=0).eigenvalues[0])
                for which in ("SA", "LA")
            )

        taken = seconds(solve, 1)
        yield row("hessian-eigenthings, its Lanczos for either end", f"{found[0]:.4f}, {found[1]:.4f} in {taken:.1f} s")
    try:
        from pyhessian import hessian
    except ImportError:
        yield row("PyHessian", "not installed")
    else:
        largest: list[Any] = []
        model.zero_grad()  # it adds its gradient to what is there
        computation = hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        taken = seconds(lambda: largest.append(computation.eigenvalues(top_n=1, tol=1e-3)[0][0]), 1)
        yield row("PyHessian, power iteration for the largest in absolute value", f"{largest[0]:.4f} in {taken:.1f} s")
