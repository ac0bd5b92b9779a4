import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze
from fxgrow.testing import Draws

X = Draws(1).normal(16, 2, 4, 4)
TARGET = torch.arange(16) % 3
HALVES = [(X[:8], TARGET[:8]), (X[8:], TARGET[8:])]


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)).double()


def _scores(model, score, batches=HALVES, **options):
    return analyze(torch.fx.symbolic_trace(model), F.cross_entropy, batches, score=score, **options)


def _weight_gradient(model, index, x, target):
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), target), model[index].weight)
    return gradient.flatten(1)


@pytest.mark.parametrize("index", [0, 3])
def test_gradient_is_the_norm_of_a_row_and_its_held_out_slope(index):
    model = _model()
    score = _scores(model, "gradient")[str(index)]
    first, second = (_weight_gradient(model, index, *half) for half in HALVES)
    torch.testing.assert_close(score.values, ((first + second) / 2).norm(dim=1))
    unit_first, unit_second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    torch.testing.assert_close(score.held_out, ((unit_first * second).sum(1) + (unit_second * first).sum(1)) / 2)
    assert score.sign == 1


def test_paper_is_the_negative_part_of_the_sum_of_the_last_batchs_gradient_row():
    model = _model()
    score = _scores(model, "paper")["0"]
    gradient = _weight_gradient(model, 0, *HALVES[-1])
    torch.testing.assert_close(score.values, gradient.sum(1).clamp(max=0))
    rank_one = torch.ones(8, 1).double() @ gradient[:1]
    eigenvalues = torch.linalg.eigvals(rank_one).real
    torch.testing.assert_close(score.values[0], eigenvalues.min().clamp(max=0), rtol=1e-6, atol=1e-12)


def test_residual_is_the_mean_over_images_of_squared_gradients_at_the_output():
    model = _model()
    energies = []
    for x, target in zip(X, TARGET, strict=True):
        output = model[0](x[None]).detach().requires_grad_()
        (delta,) = torch.autograd.grad(F.cross_entropy(model[1:](output), target[None]), output)
        energies.append(delta.square().sum((0, 2, 3)))
    energies = torch.stack(energies)
    score = _scores(model, "residual")["0"]
    torch.testing.assert_close(score.values, energies.mean(0))
    torch.testing.assert_close(score.held_out, score.values)
    torch.testing.assert_close(score.stderr, energies.std(0) / 4, rtol=1e-6, atol=0)


def test_insertion_is_the_least_eigenvalue_of_an_inserted_layer_at_zero():
    model = _model()
    h = model[1](model[0](X)).detach()
    rows = 2

    def inserted(w1, w2):
        hidden = torch.tanh(torch.einsum("rc,nchw->nrhw", w1, h))
        mixed = h + torch.einsum("cr,nrhw->nchw", w2, hidden)
        return F.cross_entropy(model[2:](mixed), TARGET)

    zeros = torch.zeros(rows, 3).double(), torch.zeros(3, rows).double()
    score = _scores(model, "insertion")["0"]
    for feature in range(3):

        def of_feature(w1, w2, feature=feature):
            return inserted(w1, torch.zeros(3, rows).double().index_copy(0, torch.tensor([feature]), w2[None]))

        hessian = torch.func.hessian(of_feature, (0, 1))(zeros[0], zeros[1][0])
        blocks = [[block.reshape(n, -1) for block in row] for row, n in zip(hessian, (6, 2), strict=True)]
        full = torch.cat([torch.cat(row, 1) for row in blocks])
        torch.testing.assert_close(
            score.values[feature], torch.linalg.eigvalsh(full)[0].detach(), rtol=1e-9, atol=1e-14
        )


@pytest.mark.parametrize("score", ["gradient", "residual", "insertion"])
def test_unequal_batches_and_a_single_one_give_the_same_values(score):
    model = _model()
    unequal = [(X[:5], TARGET[:5]), (X[5:7], TARGET[5:7]), (X[7:], TARGET[7:])]
    for path in ("0", "3"):
        results = [_scores(model, score, batches)[path] for batches in (HALVES, unequal, [(X, TARGET)])]
        for result in results[1:]:
            torch.testing.assert_close(result.values, results[0].values, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("score", ["gradient", "insertion"])
def test_pure_noise_has_no_held_out_gradient(score):
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        model, draws = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20)).double(), Draws(seed)
        batches = [(draws.normal(32, 6), draws.normal(32, 20)) for _ in range(2)]
        found.append(analyze(torch.fx.symbolic_trace(model), lambda o, t: (o * t).sum(1).mean(), batches, score=score))
    values, held_out, stderr = (
        torch.cat([getattr(scores["0"], name) for scores in found]) for name in ("values", "held_out", "stderr")
    )
    # what noise there is has a size and no direction: of 80 held-out values, each with an error bar of its own, which
    # is rough for so few samples, few are beyond two of them (of normal numbers 5 %)
    assert float(values.abs().min()) > 0
    assert float((held_out.abs() > 2 * stderr).double().mean()) < 0.25
    assert float(held_out.abs().mean()) < 0.5 * float(values.abs().mean())


def test_random_depends_on_the_seed_and_the_site_alone():
    model = _model()
    first, same, other = (_scores(model, "random", seed=seed)["0"].values for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(_scores(model, "random", HALVES[:1], sites=["0"])["0"].values, first)


def test_uniform_prefers_nobody():
    score = _scores(_model(), "uniform")["3"]
    assert score.values.tolist() == [1, 1, 1]
    assert score.stderr.tolist() == [0, 0, 0]
