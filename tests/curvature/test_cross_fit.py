import pytest
import torch

from fxgrow.curvature.cross_fit import cross_fit, mean_and_error
from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices
from fxgrow.curvature.statistics import spearman
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.testing import Draws


def _half(seed, samples=20, neurons=3, features=4, curvature=0.0):
    draws = Draws(seed)
    x, c = draws.normal(samples, features), draws.normal(samples, neurons)
    if curvature:
        c = curvature * x[:, :1].square().expand_as(c)
    return CurvatureMatrices(LinearMap(neurons, features, features), (CapturedCall(x, c, samples, samples, (seed, 0)),))


def _explicit(matrices):
    (call,) = matrices.captured
    return torch.einsum("ti,td,te->ide", call.coefficients, call.input, call.input) / len(call.input)


def test_the_held_out_quotient_crosses_vectors_and_halves():
    halves = _half(0), _half(1)
    result = cross_fit(halves, iterations=4, seed=0)
    explicit = [_explicit(half) for half in halves]
    vectors = [torch.linalg.eigh(matrix).eigenvectors[:, :, 0] for matrix in explicit]
    crossed = [
        torch.einsum("id,ide,ie->i", vectors[0], explicit[1], vectors[0]),
        torch.einsum("id,ide,ie->i", vectors[1], explicit[0], vectors[1]),
    ]
    torch.testing.assert_close(result.held_out, (crossed[0] + crossed[1]) / 2)
    torch.testing.assert_close(result.whole.values, torch.linalg.eigvalsh(sum(explicit) / 2)[:, 0])


def test_pure_noise_has_negative_eigenvalues_but_no_held_out_curvature():
    results = [cross_fit((_half(2 * s), _half(2 * s + 1)), iterations=4, seed=0) for s in range(100)]
    values = torch.cat([result.whole.values for result in results])
    held_out = torch.cat([result.held_out for result in results])
    # a matrix of pure noise, 4 x 4, has only positive eigenvalues in about 3 of 100 cases, so in 9 +- 3 of these 300
    assert float((values < 0).double().mean()) > 0.9
    # 300 uncorrelated values of mean 0
    assert float(held_out.mean().abs()) < 5 * float(held_out.std()) / len(held_out) ** 0.5


def test_the_error_bar_covers_the_spread_of_repeated_measurements():
    vector = torch.zeros(3, 4, dtype=torch.float64)
    vector[:, 0] = 1
    repeated = [
        mean_and_error([_half(2 * s).quotients(vector), _half(2 * s + 1).quotients(vector)]) for s in range(200)
    ]
    means, errors = torch.stack([m for m, _ in repeated]), torch.stack([e for _, e in repeated])
    # the standard deviation of 200 nearly normal numbers has an error of 1 / sqrt(2 * 200) = 5 %
    torch.testing.assert_close(errors.square().mean(0).sqrt(), means.std(0), rtol=0.25, atol=0)


def test_two_images_give_half_their_difference_as_error():
    mean, error = mean_and_error([(torch.tensor([[1.0]]), torch.ones(1)), (torch.tensor([[4.0]]), torch.ones(1))])
    assert (float(mean), float(error)) == pytest.approx((2.5, 1.5))


def test_units_count_by_their_samples():
    mean, _ = mean_and_error([(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 1.0]))])
    assert float(mean) == pytest.approx(2)


def test_the_largest_eigenvalue_is_positive_and_so_is_its_held_out_value():
    # every sample's own matrix is negative: so are all sums of them
    result = cross_fit(
        (_half(0, 200, curvature=-1.0), _half(1, 200, curvature=-1.0)), iterations=4, seed=0, wanted="largest"
    )
    assert float(result.whole.values.min()) > 0
    assert float(result.held_out.min()) > 0


def test_spearman_shares_ranks_among_ties_and_knows_no_order_in_a_constant():
    assert spearman(torch.tensor([1.0, 2, 2, 4]), torch.tensor([1.0, 3, 3, 9])) == pytest.approx(1)
    assert spearman(torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(torch.ones(3), torch.tensor([3.0, 2, 1])) is None


def _uneven_half(seed, quiet):
    """Forty neurons and a thousand positions, of which one in ten matters and the others by a factor `quiet` less."""
    draws = Draws(seed)
    x, c = draws.normal(1000, 30), draws.normal(1000, 40) * torch.logspace(0, 1, 40, dtype=torch.float64)
    c -= 2 * x[:, :1].square()
    c[100:] *= quiet
    return CurvatureMatrices(LinearMap(40, 30, 30), (CapturedCall(x, c, 1000, 1000, (seed, 0)),))


@pytest.mark.parametrize("quiet", [0.0, 0.001])
def test_vectors_found_on_the_few_positions_that_matter_are_worth_the_same(quiet):
    halves = _uneven_half(0, quiet), _uneven_half(1, quiet)
    early = cross_fit(halves, iterations=16, seed=0, settled=0.99)
    exact = cross_fit(halves, iterations=30, seed=0)
    assert early.iterations < 16
    assert spearman(early.whole.values, exact.whole.values) > 0.98
    assert spearman(early.held_out, exact.held_out) > 0.95


def test_without_early_stopping_all_positions_are_searched():
    halves = _uneven_half(0, 0.001), _uneven_half(1, 0.001)
    found = cross_fit(halves, iterations=30, seed=0)
    for values, half in zip(found.half_values, halves, strict=True):
        torch.testing.assert_close(values, torch.linalg.eigvalsh(_explicit(half))[:, 0])


def _plain_half(seed):
    """Thirty neurons and 640 positions, all of which weigh alike."""
    draws = Draws(seed)
    x = draws.normal(640, 40)
    c = draws.normal(640, 30) - torch.linspace(0, 0.3, 30, dtype=torch.float64) * x[:, :1].square()
    return CurvatureMatrices(LinearMap(30, 40, 40), (CapturedCall(x, c, 640, 640, (seed, 0)),))


def test_where_all_positions_weigh_alike_a_few_say_where_to_begin(monkeypatch):
    halves, searched = (_plain_half(0), _plain_half(1)), []
    product = CurvatureMatrices.__call__
    monkeypatch.setattr(
        CurvatureMatrices, "__call__", lambda self, v: searched.append(self.positions) or product(self, v)
    )
    early = cross_fit(halves, iterations=16, seed=0, settled=0.99)
    assert searched[0] <= 640 / 16
    exact = cross_fit(halves, iterations=40, seed=0)
    assert spearman(early.whole.values, exact.whole.values) > 0.98
    assert spearman(early.held_out, exact.held_out) > 0.95
    torch.testing.assert_close(early.stderr, exact.stderr, rtol=0.2, atol=0)
