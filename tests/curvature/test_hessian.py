import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze
from fxgrow.curvature.hessian import HessianScore, hadamard_signs
from fxgrow.errors import AnalysisError
from fxgrow.testing import Draws

TARGET = torch.arange(12) % 3
MODELS = {
    "linear": (lambda: [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)], (12, 3)),
    "conv": (lambda: [nn.Conv2d(2, 3, 2, groups=1), nn.GELU(), nn.Flatten(), nn.Linear(12, 3)], (12, 2, 3, 3)),
    "grouped": (lambda: [nn.Conv2d(2, 4, 2, groups=2), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)], (12, 2, 3, 3)),
}


def _setup(name):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = nn.Sequential(*build()).double(), Draws().normal(*shape)
    return model, [(x[:7], TARGET[:7]), (x[7:], TARGET[7:])], x


def _hessian(model, x):
    """The Hessian by the site's weight, (neurons, features, neurons, features)."""
    site = model[0]

    def loss(weight):
        return F.cross_entropy(model[1:](torch.func.functional_call(site, {"weight": weight}, (x,))), TARGET)

    hessian = torch.func.hessian(loss)(site.weight.detach())
    neurons, features = site.weight.shape[0], site.weight[0].numel()
    return hessian.reshape(neurons, features, neurons, features).detach()


def _blocks(model, x):
    hessian = _hessian(model, x)
    return torch.stack([hessian[i, :, i] for i in range(len(hessian))])


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_neurons_own_block(name):
    model, batches, x = _setup(name)
    score = analyze(torch.fx.symbolic_trace(model), F.cross_entropy, batches, score="hessian", iterations=12)["0"]
    expected = torch.linalg.eigvalsh(_blocks(model, x))[:, 0]
    assert float((score.eigenvalues - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_the_block_minus_the_splitting_matrix_is_positive_semidefinite_before_a_convex_loss():
    model, batches, _ = _setup("linear")
    graph_module = torch.fx.symbolic_trace(model)
    own = analyze(graph_module, F.cross_entropy, batches, score="hessian")["0"]
    split = analyze(graph_module, F.cross_entropy, batches, score="splitting")["0"]
    assert bool((own.eigenvalues >= split.eigenvalues - 1e-12).all())


def test_columns_of_the_signs_are_orthogonal_when_there_are_enough():
    signs = hadamard_signs(5, 100)
    assert signs.shape == (8, 5)
    assert torch.equal(signs.T @ signs, 8 * torch.eye(5))
    assert hadamard_signs(5, 2).shape == (2, 5)


def test_fewer_signs_are_an_approximation_of_the_same_size():
    model, batches, x = _setup("linear")
    graph_module = torch.fx.symbolic_trace(model)
    exact, rough = (
        analyze(graph_module, F.cross_entropy, batches, score=score)["0"].values
        for score in (HessianScore(), HessianScore(signs=2))
    )
    assert not torch.allclose(exact, rough)
    # a product with two signs is that of the block and, plus or minus, of those between the neuron and others: all
    # that Lanczos makes of it is a tridiagonal matrix with entries of at most their norms' sum
    norms = torch.linalg.matrix_norm(_hessian(model, x).transpose(1, 2), ord=2)
    assert float(rough.abs().max()) <= 3 * float(norms.sum(1).max())


def test_fused_attention_runs_on_its_math_kernels():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 1, 4)).unbind(2)
            attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            return self.head(attended.mean((1, 2)))

    torch.manual_seed(0)
    batches = [(Draws(seed, torch.float32).normal(4, 5, 4), TARGET[:4]) for seed in range(2)]
    scores = analyze(torch.fx.symbolic_trace(Attention()), F.cross_entropy, batches, score="hessian", iterations=4)
    assert bool(torch.isfinite(scores["qkv"].values).all())


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


class _Cube(nn.Module):
    def forward(self, x):
        return _NoSecondDerivative.apply(x)


def test_an_operation_without_second_derivative_is_named_with_the_way_out():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return isinstance(module, _Cube) or super().is_leaf_module(module, path)

    model = nn.Sequential(nn.Linear(3, 3), _Cube(), nn.Linear(3, 3)).double()
    graph_module = torch.fx.GraphModule(model, Tracer().trace(model))
    _, batches, _ = _setup("linear")
    with pytest.raises(AnalysisError, match="use score 'splitting' or 'branch'"):
        analyze(graph_module, F.cross_entropy, batches, score="hessian")


def test_a_single_batch_is_not_cut_and_has_no_error_bar():
    model, batches, x = _setup("linear")
    graph_module = torch.fx.symbolic_trace(model)
    single = analyze(graph_module, F.cross_entropy, [(x, TARGET)], score="hessian")["0"]
    double = analyze(graph_module, F.cross_entropy, batches, score="hessian")["0"]
    torch.testing.assert_close(single.values, double.values, rtol=1e-10, atol=1e-14)
    assert (single.held_out, single.stderr, single.reliability) == (None, None, None)
    assert not bool(single.significant.any())
    assert torch.equal(single.priority, -single.values)


def test_a_frozen_weight_is_refused():
    model, batches, _ = _setup("linear")
    model[0].weight.requires_grad_(False)
    scores = analyze(torch.fx.symbolic_trace(model), F.cross_entropy, batches, score="hessian")
    assert (list(scores), scores.refusals["0"]) == (["2"], "its weight is frozen")
