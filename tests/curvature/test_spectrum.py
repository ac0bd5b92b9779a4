import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature.hessian import HessianOperator
from fxgrow.curvature.probe_data import read_batches
from fxgrow.curvature.spectrum import spectra
from fxgrow.errors import AnalysisError
from fxgrow.testing import Draws

X = Draws().normal(24, 5)
TARGET = torch.arange(24) % 4
BATCHES = [(X[:16], TARGET[:16]), (X[16:], TARGET[16:])]


def _model(width=12):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 4)).double()


def _explicit(model, names=None):
    parameters = {name: value.detach() for name, value in model.named_parameters() if names is None or name in names}

    def loss(chosen):
        return F.cross_entropy(torch.func.functional_call(model, chosen, (X,)), TARGET)

    hessian = torch.func.hessian(loss)(parameters)
    rows = [torch.cat([hessian[a][b].reshape(parameters[a].numel(), -1) for b in parameters], 1) for a in parameters]
    return torch.cat(rows).detach()


def _operator(model, batches):
    graph_module = torch.fx.symbolic_trace(model)
    read, _ = read_batches(graph_module, batches, seed=0)
    return HessianOperator(graph_module, F.cross_entropy, read, list(model.parameters()))


@pytest.mark.parametrize("batches", [BATCHES, [(X, TARGET)]], ids=["two batches", "one batch"])
def test_products_are_those_of_the_explicit_hessian(batches):
    model = _model()
    operator, hessian = _operator(model, batches), _explicit(model)
    matrix = Draws(1).normal(operator.shape[0], 3)
    for _ in range(2):  # the second product of a single batch uses the kept graph
        torch.testing.assert_close(operator @ matrix, hessian @ matrix, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(operator @ matrix[:, 0], hessian @ matrix[:, 0], rtol=1e-10, atol=1e-13)


def test_the_spectrum_is_that_of_the_explicit_hessian():
    pytest.importorskip("curvlinops")
    pytest.importorskip("scipy")
    model = _model()
    found = spectra(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES, sites=["0"])
    assert list(found) == ["(model)", "0"]
    for path, names in (("(model)", None), ("0", ["0.weight"])):
        matrix = _explicit(model, names)
        exact = torch.linalg.eigvalsh(matrix)
        spectrum = found[path]
        assert spectrum.size == len(exact)
        assert spectrum.least == pytest.approx(float(exact[0]), rel=1e-6)
        assert spectrum.greatest == pytest.approx(float(exact[-1]), rel=1e-6)
        assert spectrum.trace == pytest.approx(float(exact.sum()), rel=0.05)
        assert float(spectrum.escape.norm()) == pytest.approx(1)
        left = matrix @ spectrum.escape - spectrum.least * spectrum.escape
        assert float(left.norm()) < 1e-4 * float(exact.abs().max())
        assert float(spectrum.weights.sum()) == pytest.approx(1)


def test_the_ends_are_those_of_curvlinops_and_eigsh():
    curvlinops = pytest.importorskip("curvlinops")
    scipy_linalg = pytest.importorskip("scipy.sparse.linalg")
    model = _model()
    spectrum = spectra(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES)["(model)"]
    reference = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), BATCHES)
    ends = scipy_linalg.eigsh(reference.to_scipy(), k=2, which="BE", return_eigenvectors=False, tol=1e-9)
    assert (spectrum.least, spectrum.greatest) == pytest.approx((ends.min(), ends.max()), rel=1e-6)


def test_the_density_integrates_to_one_and_finds_the_negative_share():
    pytest.importorskip("curvlinops")
    model = _model(40)
    spectrum = spectra(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES, repeats=16, steps=48)["(model)"]
    grid, density = spectrum.density(points=2001, width=0.02)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-2)
    exact = torch.linalg.eigvalsh(_explicit(model))
    # mean of v^T H^2 v over 16 random unit vectors: of relative deviation sqrt(2 tr H^4 / 16) / tr H^2
    mean_square = float((spectrum.weights * spectrum.nodes.square()).sum())
    deviation = (2 * exact.pow(4).sum() / 16).sqrt() / exact.square().sum()
    assert mean_square == pytest.approx(float(exact.square().mean()), rel=5 * float(deviation))
    # A Gauss quadrature's weights up to a node are at least the measure below it and at most that below the next node
    # (Chebyshev, Markov, Stieltjes). A vector's measure of half the spectrum deviates by at most 1 / sqrt(2 size).
    nodes = spectrum.nodes.reshape(16, 48)
    below, above = nodes.where(nodes < 0, -torch.inf).amax(1).min(), nodes.where(nodes >= 0, torch.inf).amin(1).max()
    least, most = (float((exact < node).double().mean()) for node in (below, above))
    error = 5 * (2 * spectrum.size * 16) ** -0.5
    assert least - error < spectrum.negative_share < most + error


def test_a_small_matrix_is_formed_and_exact():
    model = nn.Sequential(nn.Linear(5, 4)).double()
    spectrum = spectra(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES)["(model)"]
    exact = torch.linalg.eigvalsh(_explicit(model))
    torch.testing.assert_close(spectrum.nodes, exact, rtol=1e-10, atol=1e-12)
    assert spectrum.trace == pytest.approx(float(exact.sum()))


def test_rounding_errors_of_zero_are_no_negative_eigenvalues():
    """The Hessian of a linear model under cross-entropy is positive semidefinite, and singular: C scores sum to one."""
    model = nn.Sequential(nn.Linear(5, 4)).double()
    spectrum = spectra(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES)["(model)"]
    assert float(spectrum.nodes.min()) <= spectrum.rounding
    assert spectrum.negative_share == 0


def test_the_same_seed_gives_the_same_spectrum_and_leaves_the_random_state():
    pytest.importorskip("curvlinops")
    graph_module = torch.fx.symbolic_trace(_model())
    state = torch.get_rng_state()
    first, second = (spectra(graph_module, F.cross_entropy, BATCHES)["(model)"] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.least, first.trace) == (second.least, second.trace)
    assert torch.equal(first.nodes, second.nodes)


@pytest.mark.parametrize(
    ("package", "name"), [("scipy.sparse.linalg", "scipy"), ("curvlinops", "curvlinops-for-pytorch")]
)
def test_a_missing_library_is_named_with_the_way_to_install_it(package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AnalysisError, match=rf"{name} is not installed; pip install 'fxgrow\[spectra\]'"):
        spectra(torch.fx.symbolic_trace(_model()), F.cross_entropy, BATCHES)


def test_a_frozen_model_is_refused():
    with pytest.raises(AnalysisError, match="no parameter of it is trained"):
        spectra(torch.fx.symbolic_trace(_model().requires_grad_(False)), lambda o, t: o.sum(), BATCHES)
