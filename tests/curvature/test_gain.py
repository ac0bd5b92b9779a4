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


def _batch(x, target):
    return Batch(0, (x,), target, len(x))


def test_the_factors_square_to_the_hessian_of_each_images_loss():
    torch.manual_seed(0)
    output, target = torch.randn(5, 4).double(), torch.randint(4, (5,))
    factors = output_factors(F.cross_entropy, output, _batch(output, target))
    for sample in range(5):
        expected = torch.func.hessian(lambda o, t=target[sample]: F.cross_entropy(o[None], t[None]))(output[sample])
        torch.testing.assert_close(factors[sample] @ factors[sample].T, expected, rtol=1e-8, atol=1e-10)


def test_a_squared_error_has_the_identity_as_its_factor():
    output = torch.randn(3, 2).double()
    factors = output_factors(lambda o, t: ((o - t) ** 2).sum(1).mean() / 2, output, _batch(output, output))
    torch.testing.assert_close(factors, torch.eye(2).double().expand(3, 2, 2))


@pytest.mark.parametrize(
    ("loss", "output", "message"),
    [
        (lambda o, t: -(o**2).sum(1).mean(), torch.randn(3, 2), "not convex"),
        (lambda o, t: o.mean(), torch.randn(3, 2, 2), "not one tensor"),
        (lambda o, t: o["x"].mean(), {"x": torch.randn(3, 2)}, "not one tensor"),
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


def _fitted(samples=512):
    torch.manual_seed(0)
    model = _Teacher().double()
    x = torch.randn(samples, 6).double()
    h = torch.tanh(model.hidden(x)).detach()
    target = h @ torch.randn(12, 4).double()
    target[:, 2:] += target[:, 2:].square()
    linear = torch.cat([h, torch.ones(samples, 1).double()], 1)
    solution = torch.linalg.lstsq(linear, target).solution
    model.head.weight.data, model.head.bias.data = solution[:-1].T.contiguous(), solution[-1]
    return model, [(x[: samples // 2], target[: samples // 2]), (x[samples // 2 :], target[samples // 2 :])]


def _mean_squared(output, target):
    return (output - target).square().sum(1).mean() / 2


@pytest.mark.parametrize("metric", ["gauss-newton", "fisher"])
def test_a_feature_that_is_linear_already_gains_nothing_and_the_others_gain(metric):
    model, batches = _fitted()
    score = analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score=GainScore(metric=metric))["head"]
    linear, curved = score.held_out[:2], score.held_out[2:]
    assert float(linear.abs().max()) < (1e-3 if metric == "gauss-newton" else 0.3) * float(curved.min())
    assert bool(score.significant[2:].all())


def test_the_predicted_decrease_comes_true_for_a_squared_error():
    # one-layer model: the loss is exactly quadratic in an addition to its output, and the metric has no noise
    torch.manual_seed(0)
    x = torch.randn(400, 3).double()
    target = torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)
    model = nn.Sequential(nn.Linear(3, 2)).double()
    score = analyze(
        torch.fx.symbolic_trace(model),
        _mean_squared,
        [(x[:200], target[:200]), (x[200:], target[200:])],
        score=GainScore(candidates=8, damping=1e-9, draws=64),
    )["0"]
    output = model(x).detach()
    drawn = CandidateFeatures.drawn(_reading(model), output[:200], 8, 0)
    linear, psi = drawn.raw(output)
    residual_psi = psi - linear @ torch.linalg.lstsq(linear, psi).solution
    error = target - output
    fitted = residual_psi @ torch.linalg.lstsq(residual_psi, error).solution
    decrease = (error.square() - (error - fitted).square()).mean(0) / 2
    torch.testing.assert_close(score.values, decrease, rtol=0.1, atol=1e-3)


def _reading(model):
    graph_module = torch.fx.symbolic_trace(model)
    return Reading.of_features(graph_module, find_sites(graph_module)["0"])


def test_noise_gains_nothing_when_held_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 30)).double()
    x = torch.randn(256, 3).double()
    noise = torch.randn(256, 30).double()
    batches = [(x[:128], noise[:128]), (x[128:], noise[128:])]
    score = analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score=GainScore(candidates=8))["0"]
    assert float(score.values.min()) > 0
    assert abs(float(score.held_out.mean())) < 0.3 * float(score.values.mean())


def test_convolutions_add_up_the_positions_of_an_image():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    x, target = torch.randn(24, 2, 4, 4).double(), torch.arange(24) % 3
    batches = [(x[:12], target[:12]), (x[12:], target[12:])]
    graph_module = torch.fx.symbolic_trace(model)
    together = analyze(graph_module, F.cross_entropy, batches, score="gain")
    one_by_one = analyze(graph_module, F.cross_entropy, batches, score="gain", max_memory=1)
    for path in ("0", "3"):
        assert bool(torch.isfinite(together[path].held_out).all())
        assert together[path].values.shape == (3,)
        assert one_by_one[path].held_out.shape == together[path].held_out.shape


def test_a_dead_neuron_gains_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[2].weight.data[:, 1] = 0
    x = torch.randn(20, 3).double()
    batches = [(x[:10], torch.zeros(10, 2).double()), (x[10:], torch.zeros(10, 2).double())]
    score = analyze(torch.fx.symbolic_trace(model), _mean_squared, batches, score="gain")["0"]
    assert float(score.values[1]) == 0
    assert float(score.values[0]) > 0


@pytest.mark.parametrize("options", [{"metric": "hessian"}, {"candidates": 0}, {"damping": 0.0}, {"draws": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(AnalysisError):
        GainScore(**options)
