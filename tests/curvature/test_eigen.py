"""The scores against what they claim to be: Hessians of explicit models, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze
from fxgrow.testing import Draws


def _tail(channels, spatial):
    flatten = [nn.Flatten()] if spatial else []
    return [*flatten, nn.LazyLinear(3)]


MODELS = {
    "linear": (lambda: [nn.Linear(4, 3), nn.Tanh(), *_tail(3, 0)], (12, 4)),
    "conv": (lambda: [nn.Conv2d(2, 3, 2), nn.GELU(), *_tail(3, 2)], (12, 2, 4, 4)),
    "strided": (lambda: [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.SiLU(), *_tail(3, 2)], (12, 2, 4, 4)),
    "grouped": (lambda: [nn.Conv2d(4, 4, 2, groups=2), nn.Mish(), *_tail(4, 2)], (12, 4, 3, 3)),
    "depthwise": (lambda: [nn.Conv2d(3, 3, 2, groups=3, dilation=2), nn.Sigmoid(), *_tail(3, 2)], (12, 3, 4, 4)),
    "conv1d": (lambda: [nn.Conv1d(2, 3, 3), nn.Softplus(), *_tail(3, 1)], (12, 2, 6)),
    "conv3d": (lambda: [nn.Conv3d(1, 2, 2), nn.ELU(), *_tail(2, 3)], (12, 1, 3, 3, 3)),
    "transposed": (lambda: [nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Tanh(), *_tail(3, 2)], (12, 2, 3, 3)),
    "batch norm": (lambda: [nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), *_tail(3, 2)], (12, 2, 4, 4)),
}


def _setup(name):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = nn.Sequential(*build()).double()
    draws = Draws()
    x = draws.normal(*shape)
    model(x)
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = draws.uniform(module.num_features, low=0.5, high=1.5)
    return model.eval(), x, torch.arange(shape[0]) % 3


def _scores(model, batches, score, iterations=64):
    return analyze(torch.fx.symbolic_trace(model), F.cross_entropy, batches, score=score, iterations=iterations)


def _even_gelu(u):
    """phi_e(u) = GELU(u) + GELU(-u): phi_e(0) = phi_e'(0) = 0 and phi_e''(0) = 2 sqrt(2 / pi)."""
    return u * torch.erf(u / 2**0.5)


def _branch_hessian(model, x, target, index, phi):
    """d2L/dA_i^2 at A = 0 of a pseudo-layer phi(A x) beside the site `index`, (neurons, d, d)."""
    site = model[index]

    def beside(rows):
        branch = torch.func.functional_call(site, {"weight": rows, **_without_bias(site)}, (before,))
        return F.cross_entropy(model[index + 1 :](site(before) + phi(branch)), target)

    before = model[:index](x)
    hessian = torch.func.hessian(beside)(torch.zeros_like(site.weight))
    return _blocks(site, hessian)


def _without_bias(site):
    return {"bias": torch.zeros_like(site.bias)}


def _blocks(site, hessian):
    """The neuron's own blocks of a Hessian over the weight of `site`, (neurons, d, d)."""
    dims = site.weight.ndim
    if isinstance(site, nn.ConvTranspose2d):
        hessian = hessian.transpose(0, 1).transpose(dims, dims + 1)
    neurons = hessian.shape[0]
    size = site.weight.numel() // neurons
    flat = hessian.reshape(neurons, size, neurons, size)
    return torch.stack([flat[i, :, i] for i in range(neurons)])


def _assert_close(actual, expected):
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_branch_eigenvalues_are_those_of_an_even_pseudo_layer(name):
    model, x, target = _setup(name)
    blocks = _branch_hessian(model, x, target, 0, _even_gelu) / (2 * (2 / torch.pi) ** 0.5)
    scores = _scores(model, [(x, target)], "branch")
    _assert_close(scores["0"].eigenvalues, torch.linalg.eigvalsh(blocks)[:, 0].detach())


def test_the_hessian_of_any_pseudo_layer_is_branch_matrix_plus_the_layers_own():
    model, x, target = _setup("linear")
    slope, curvature = 1.5, (2 / torch.pi) ** 0.5  # of u + GELU(u), the paper's
    paper = _branch_hessian(model, x, target, 0, lambda u: u + F.gelu(u))
    own = _branch_hessian(model, x, target, 0, lambda u: u)
    even = _branch_hessian(model, x, target, 0, _even_gelu) / (2 * curvature)
    torch.testing.assert_close(paper, curvature * even + slope**2 * own, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_splitting_eigenvalues_are_those_of_the_local_surrogate(name):
    model, x, target = _setup(name)
    site, activation = model[0], model[1:-2] if len(model) > 3 else model[1:2]
    tail = model[1 + len(activation) :]
    a = activation(site(x)).detach().requires_grad_()
    (delta,) = torch.autograd.grad(F.cross_entropy(tail(a), target), a)

    def surrogate(weight):
        z = torch.func.functional_call(site, {"weight": weight}, (x,))
        return (delta * activation(z)).sum()

    blocks = _blocks(site, torch.func.hessian(surrogate)(site.weight.detach()))
    scores = _scores(model, [(x, target)], "splitting")
    _assert_close(scores["0"].eigenvalues, torch.linalg.eigvalsh(blocks)[:, 0].detach())


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.SiLU()])
def test_a_real_split_changes_the_loss_as_predicted(activation):
    torch.manual_seed(1)
    x, target = Draws(1).normal(64, 5), torch.arange(64) % 3
    model = nn.Sequential(nn.Linear(5, 4), activation, nn.Linear(4, 3)).double()
    scores = _scores(model, [(x, target)], "splitting")["0"]
    hidden = model[0](x)
    before = F.cross_entropy(model(x), target)

    def curvature(neuron, epsilon):
        """Twice the change of the loss by halves epsilon apart from the neuron, over epsilon squared."""
        shift = epsilon * (x @ scores.eigenvectors[neuron])
        a, z = activation(hidden).clone(), hidden[:, neuron]
        a[:, neuron] = (activation(z + shift) + activation(z - shift)) / 2
        return 2 * (F.cross_entropy(model[2](a), target) - before) / epsilon**2

    for neuron in range(4):
        # it is even in epsilon: two steps of Richardson's leave an error of epsilon^4, and rounding over epsilon^2
        found = (4 * curvature(neuron, 1e-2) - curvature(neuron, 2e-2)) / 3
        assert float((found - scores.eigenvalues[neuron]).abs()) < 1e-5 * float(scores.eigenvalues.abs().max())


def test_eigenvectors_have_the_quotients_that_the_eigenvalues_claim():
    model, x, target = _setup("linear")
    score = _scores(model, [(x, target)], "branch")["0"]
    blocks = _branch_hessian(model, x, target, 0, _even_gelu) / (2 * (2 / torch.pi) ** 0.5)
    quotients = torch.einsum("id,ide,ie->i", score.eigenvectors, blocks, score.eigenvectors)
    torch.testing.assert_close(quotients.detach(), score.eigenvalues, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("score", ["branch", "splitting"])
def test_unequal_batches_count_by_their_samples(score):
    model, x, target = _setup("conv")
    whole = _scores(model, [(x, target)], score)["0"]
    parts = _scores(model, [(x[:7], target[:7]), (x[7:9], target[7:9]), (x[9:], target[9:])], score)["0"]
    torch.testing.assert_close(parts.eigenvalues, whole.eigenvalues, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("score", ["branch", "splitting"])
def test_permuting_neurons_permutes_scores(score):
    model, x, target = _setup("linear")
    before = _scores(model, [(x, target)], score)["0"]
    order = torch.tensor([2, 0, 1])
    model[0].weight.data, model[0].bias.data = model[0].weight[order], model[0].bias[order]
    model[-1].weight.data = model[-1].weight[:, order]
    after = _scores(model, [(x, target)], score)["0"]
    for name in ("eigenvalues", "held_out", "stderr"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name)[order], rtol=1e-9, atol=1e-13)


def test_rescaling_a_neuron_of_squared_relu_rescales_nothing_but_its_units():
    # W1 -> c W1, W2 -> W2 / c^2 leaves the function; in the units of its own weight a neuron's curvature is the same
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 5, bias=False), nn.Linear(5, 3)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x)).square())

    torch.manual_seed(0)
    model, x, target = Model().double(), Draws().normal(20, 4), torch.arange(20) % 3
    before = _scores(model, [(x, target)], "splitting")["fc1"].eigenvalues
    model.fc1.weight.data *= 2
    model.fc2.weight.data /= 4
    after = _scores(model, [(x, target)], "splitting")["fc1"].eigenvalues
    torch.testing.assert_close(after * 4, before, rtol=1e-10, atol=1e-14)


def test_eigen_splits_where_it_can_and_branches_elsewhere():
    model, x, target = _setup("linear")
    scores = _scores(model, [(x, target)], "eigen")
    assert {path: score.matrix for path, score in scores.items()} == {"0": "splitting", "2": "branch"}
    assert not scores.refusals


def test_a_site_that_cannot_be_split_is_refused_and_not_scored_zero():
    model, x, target = _setup("linear")
    scores = _scores(model, [(x, target)], "splitting")
    assert set(scores) == {"0"}
    assert scores.refusals["2"].startswith("not splittable: ")


def test_a_module_called_twice_is_one_site_that_sees_both_calls():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))

    torch.manual_seed(0)
    model, x, target = Model().double(), Draws().normal(16, 4), torch.arange(16) % 3
    score = _scores(model, [(x, target)], "branch")["shared"]
    h = torch.tanh(model.shared(x)).detach()
    first = model.shared(x).detach().requires_grad_()
    second = model.shared(torch.tanh(first))
    loss = F.cross_entropy(model.head(torch.tanh(second)), target)
    deltas = torch.autograd.grad(loss, (first, second))
    blocks = sum(torch.einsum("ti,td,te->ide", d, v, v) for d, v in zip(deltas, (x, h), strict=True))
    _assert_close(score.eigenvalues, torch.linalg.eigvalsh(blocks)[:, 0])


@pytest.mark.parametrize("max_memory", [3_000, 8_000, 1 << 30])
def test_scores_do_not_depend_on_the_memory_given(max_memory):
    model, x, target = _setup("linear")
    graph_module = torch.fx.symbolic_trace(model)
    batches = [(x[:5], target[:5]), (x[5:], target[5:])]
    bounded = analyze(graph_module, F.cross_entropy, batches, max_memory=max_memory, iterations=2)
    free = analyze(graph_module, F.cross_entropy, batches, iterations=2)
    for path in free:
        for name in ("eigenvalues", "held_out", "stderr", "eigenvectors"):
            torch.testing.assert_close(getattr(bounded[path], name), getattr(free[path], name))
        assert bounded[path].reliability == free[path].reliability
