import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze
from fxgrow.curvature.batches import Batch
from fxgrow.curvature.candidates import CandidateFeatures
from fxgrow.curvature.gain import GainScore, output_factors
from fxgrow.curvature.reading import Reading
from fxgrow.errors import AnalysisError
from fxgrow.graph.sites import find_sites
from fxgrow.testing import Draws


def _batch(x, target):
    return Batch(0, (x,), target, len(x))


def test_the_factors_square_to_the_hessian_of_each_images_loss():
    output, target = Draws().normal(5, 4), torch.arange(5) % 4
    factors = output_factors(F.cross_entropy, output, _batch(output, target))
    for sample in range(5):
        expected = torch.func.hessian(lambda o, t=target[sample]: F.cross_entropy(o[None], t[None]))(output[sample])
        torch.testing.assert_close(factors[sample] @ factors[sample].T, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("margin", [0.0, 8.0, 16.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("undecided", [0, 1])
def test_a_model_that_is_certain_of_its_classes_has_factors_too(margin, weighted, undecided):
    numbers = np.random.default_rng(0)
    target = torch.from_numpy(numbers.integers(10, size=64))
    output = torch.from_numpy(numbers.normal(size=(64, 10))).float() + margin * F.one_hot(target, 10)
    output[:undecided] = 0.0
    weight = torch.linspace(0.5, 2, 10) if weighted else None
    factors = output_factors(
        lambda o, t: F.cross_entropy(o, t, weight, reduction="sum") / 64, output, _batch(output, target)
    )
    p = output.double().softmax(1)
    factor = torch.ones(64) if weight is None else weight[target]
    expected = factor[:, None, None] * (torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    torch.testing.assert_close(factors @ factors.transpose(1, 2), expected, rtol=1e-3, atol=1e-4 if weighted else 1e-12)


def test_a_squared_error_has_the_identity_as_its_factor():
    output = Draws().normal(3, 2)
    factors = output_factors(lambda o, t: ((o - t) ** 2).sum(1).mean() / 2, output, _batch(output, output))
    torch.testing.assert_close(factors, torch.eye(2).double().expand(3, 2, 2))


@pytest.mark.parametrize(
    ("loss", "output", "message"),
    [
        (lambda o, t: -(o**2).sum(1).mean(), torch.ones(3, 2), "not convex"),
        (lambda o, t: o.mean(), torch.ones(3, 2, 2), "not one tensor"),
        (lambda o, t: o["x"].mean(), {"x": torch.ones(3, 2)}, "not one tensor"),
    ],
)
def test_what_has_no_gauss_newton_matrix_is_refused_with_the_way_out(loss, output, message):
    with pytest.raises(AnalysisError, match=rf"{message}.*metric='fisher'"):
        output_factors(loss, output, Batch(0, (torch.zeros(3, 2),), torch.zeros(3, 2), 3))


class _Teacher(nn.Module):
    """Outputs 0 and 1 are linear in the features, outputs 2 and 3 are not."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(x)))


NOISE = 0.1  #: standard deviation of what no feature can explain


def _fitted(seed, samples=1024):
    """A teacher whose head is the best linear map of its features, and its data as two batches."""
    draws = Draws(seed)
    torch.manual_seed(seed)
    model = _Teacher().double()
    x = draws.normal(samples, 6)
    h = torch.tanh(model.hidden(x)).detach()
    target = h @ draws.normal(12, 4)
    target[:, 2:] += target[:, 2:].square()
    target += NOISE * draws.normal(samples, 4)
    linear = torch.cat([h, torch.ones(samples, 1).double()], 1)
    solution = torch.linalg.lstsq(linear, target).solution
    model.head.weight.data, model.head.bias.data = solution[:-1].T.contiguous(), solution[-1]
    return model, [(x[: samples // 2], target[: samples // 2]), (x[samples // 2 :], target[samples // 2 :])]


def _mean_squared(output, target):
    return (output - target).square().sum(1).mean() / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["gauss-newton", "fisher"])
def test_a_feature_that_is_linear_already_gains_nothing_and_the_others_gain(metric, seed):
    model, batches = _fitted(seed)
    score = analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score=GainScore(metric=metric))["head"]
    linear, curved = score.held_out[:2], score.held_out[2:]
    # The gradient at a linear output is the noise r, of variance s^2 and independent of the p candidates psi. For n
    # samples g_A and g_B are independent, with mean 0 and covariance s^2 E[psi psi^T] / n. The metric is E[psi psi^T]
    # (Gauss-Newton, of this loss) or s^2 E[psi psi^T] (Fisher), so g_A^T H^-1 g_B / 2 has mean 0 and the deviation
    # sqrt(p) / 2n, times s^2 for the former; damping and the fit of the head make it less. The bound is five of them.
    samples, candidates = len(batches[0][0]), GainScore().candidates
    deviation = candidates**0.5 / (2 * samples) * (NOISE**2 if metric == "gauss-newton" else 1)
    assert float(linear.abs().max()) < 5 * deviation
    assert float(curved.min()) > float(linear.abs().max())
    assert bool(score.significant[2:].all())


@pytest.mark.parametrize("seed", range(3))
def test_the_predicted_decrease_comes_true_for_a_squared_error(seed):
    # one-layer model: the loss is exactly quadratic in an addition to its output
    torch.manual_seed(seed)
    x = Draws(seed).normal(400, 3)
    target = torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)
    model = nn.Sequential(nn.Linear(3, 2)).double()
    halves = slice(0, 200), slice(200, 400)
    score = analyze(
        torch.fx.symbolic_trace(model),
        _mean_squared,
        [(x[half], target[half]) for half in halves],
        score=GainScore(candidates=8, damping=1e-9, draws=64),
    )["0"]
    output = model(x).detach()
    linear, psi = CandidateFeatures.drawn(_reading(model), output[:200], 8, 0).raw(output)
    psi = torch.cat([psi[h] - linear[h] @ torch.linalg.lstsq(linear[h], psi[h]).solution for h in halves])
    error = target - output
    fitted = psi @ torch.linalg.lstsq(psi, error).solution
    decrease = (error.square() - (error - fitted).square()).mean(0) / 2
    # The metric is the mean of z^2 psi psi^T over samples and draws, with z standard normal; along the fitted direction
    # its relative deviation is sqrt(2 kurtosis / terms), and that of its inverse is the same.
    kurtosis = fitted.pow(4).mean(0) / fitted.square().mean(0).square()
    deviation = (2 * kurtosis / (64 * len(x))).sqrt()
    assert bool(((score.values / decrease - 1).abs() < 5 * deviation).all())


def _reading(model):
    graph_module = torch.fx.symbolic_trace(model)
    return Reading.of_features(graph_module, find_sites(graph_module)["0"])


def test_noise_gains_nothing_when_held_out():
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        model, draws = nn.Sequential(nn.Linear(3, 30)).double(), Draws(seed)
        batches = [(draws.normal(128, 3), draws.normal(128, 30)) for _ in range(2)]
        found.append(
            analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score=GainScore(candidates=8))["0"]
        )
    values, held_out = (torch.cat([getattr(score, name) for score in found]) for name in ("values", "held_out"))
    # as above, for 240 independent outputs with noise of variance 1; without halves noise gains p / 2n on 2n samples
    deviation = 8**0.5 / (2 * 128) / len(held_out) ** 0.5
    assert abs(float(held_out.mean())) < 5 * deviation < float(values.mean())
    assert float(values.min()) > 0


def test_convolutions_add_up_the_positions_of_an_image():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    x, target = Draws().normal(24, 2, 4, 4), torch.arange(24) % 3
    batches = [(x[:12], target[:12]), (x[12:], target[12:])]
    graph_module = torch.fx.symbolic_trace(model)
    together = analyze(graph_module, F.cross_entropy, batches, score="gain")
    one_by_one = analyze(graph_module, F.cross_entropy, batches, score="gain", max_memory=1)
    for path in ("0", "3"):
        assert bool(torch.isfinite(together[path].held_out).all())
        assert together[path].values.shape == (3,)
        assert one_by_one[path].held_out.shape == together[path].held_out.shape


def test_a_dead_neuron_gains_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[2].weight.data[:, 1] = 0
    x = Draws().normal(20, 3)
    batches = [(x[:10], torch.zeros(10, 2).double()), (x[10:], torch.zeros(10, 2).double())]
    score = analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score="gain")["0"]
    assert float(score.values[1]) == 0
    assert float(score.values[0]) > 0


@pytest.mark.parametrize("options", [{"metric": "hessian"}, {"candidates": 0}, {"damping": 0.0}, {"draws": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(AnalysisError):
        GainScore(**options)
