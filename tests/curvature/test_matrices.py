import pytest
import torch
from torch import nn

from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices, split_in_halves
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.testing import Draws

MODULES = {
    "linear": (lambda: nn.Linear(3, 4), (6, 3)),
    "linear over tokens": (lambda: nn.Linear(3, 4), (6, 5, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (6, 2, 5)),
    "conv2d strided": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (6, 2, 5, 5)),
    "conv2d dilated": (lambda: nn.Conv2d(2, 4, 2, dilation=2), (6, 2, 5, 5)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2), (6, 4, 4, 4)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (6, 4, 4, 4)),
    "conv2d same": (lambda: nn.Conv2d(2, 4, 3, padding="same"), (6, 2, 4, 4)),
    "conv2d circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (6, 2, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (6, 2, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1), (6, 2, 3, 3)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 4, 2, groups=2), (6, 4, 3, 3)),
}


def _matrices(name, sizes=(6,)):
    draws = Draws()
    build, shape = MODULES[name]
    module = build().double()
    captured = []
    for index, size in enumerate(sizes):
        x = draws.normal(size, *shape[1:])
        captured.append(CapturedCall(x, draws.normal(*module(x).shape), size, size, (index, 0)))
    return CurvatureMatrices(LinearMap.of_module(module), tuple(captured))


def explicit(matrices):
    """S_i one by one, as the Hessian of 1/2 sum c (x^T v)^2 with respect to v_i."""

    def half_quotient(rows):
        total = sum((call.coefficients * matrices.map(call.input, rows).square()).sum() for call in matrices.captured)
        return total / 2 / matrices.samples

    neurons, features = matrices.map.neurons, matrices.map.features
    return torch.func.hessian(half_quotient)(torch.zeros(neurons, features, dtype=torch.float64))


@pytest.mark.parametrize("name", MODULES)
def test_products_are_those_of_the_explicit_matrices(name):
    matrices = _matrices(name)
    hessian = explicit(matrices)
    vectors = Draws(1).normal(matrices.map.neurons, matrices.map.features)
    expected = torch.einsum("idie,ie->id", hessian, vectors)
    torch.testing.assert_close(matrices(vectors), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_half_a_product_is_what_the_whole_one_is_along_the_vectors(name):
    matrices = _matrices(name, (4, 6))
    vectors = Draws(1).normal(matrices.map.neurons, matrices.map.features)
    expected = torch.einsum("id,idie,ie->i", vectors, explicit(matrices), vectors)
    torch.testing.assert_close(matrices.along(vectors), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["linear over tokens", "conv2d grouped"])
def test_blocks_between_two_neurons_are_zero(name):
    hessian = explicit(_matrices(name))
    for i in range(hessian.shape[0]):
        hessian[i, :, i] = 0
    assert float(hessian.abs().max()) == 0


@pytest.mark.parametrize("name", MODULES)
def test_quotients_of_single_images_average_to_that_of_the_whole(name):
    matrices = _matrices(name, sizes=(6, 3))
    vectors = Draws(1).normal(matrices.map.neurons, matrices.map.features)
    quotients, samples = matrices.quotients(vectors)
    assert samples.tolist() == [1] * 9
    whole = (vectors * matrices(vectors)).sum(1)
    torch.testing.assert_close(quotients.mean(0), whole, rtol=1e-10, atol=1e-12)


def test_a_unit_of_unknown_images_counts_as_one_batch():
    matrices = _matrices("linear", sizes=(4, 2))
    coarse = CurvatureMatrices(
        matrices.map, tuple(CapturedCall(p.input, p.coefficients, 1, p.samples, p.source) for p in matrices.captured)
    )
    vectors = Draws(1).normal(4, 3)
    quotients, samples = coarse.quotients(vectors)
    assert samples.tolist() == [4, 2]
    fine = matrices.quotients(vectors)[0]
    torch.testing.assert_close(quotients, torch.stack([fine[:4].mean(0), fine[4:].mean(0)]))


def test_two_calls_in_one_batch_add_up_sample_by_image():
    first, second = _matrices("linear", sizes=(4, 4)).captured
    linear = _matrices("linear").map
    both = CurvatureMatrices(linear, (first, CapturedCall(second.input, second.coefficients, 4, 4, first.source)))
    vectors = Draws(1).normal(4, 3)
    single = [CurvatureMatrices(linear, (call,)).quotients(vectors)[0] for call in (first, second)]
    assert both.samples == 4
    torch.testing.assert_close(both.quotients(vectors)[0], single[0] + single[1])


def test_batches_are_dealt_out_whole_and_evenly():
    captured = _matrices("linear", sizes=(4, 1, 2, 1)).captured
    first, second = split_in_halves(captured)
    assert sum(call.samples for call in first) == sum(call.samples for call in second) == 4
    assert {call.source[0] for call in first}.isdisjoint(call.source[0] for call in second)


def test_a_single_batch_is_halved_by_whole_samples():
    matrices = _matrices("linear over tokens")
    first, second = split_in_halves(matrices.captured)
    torch.testing.assert_close(first[0].input, matrices.captured[0].input[::2])
    torch.testing.assert_close(second[0].coefficients, matrices.captured[0].coefficients[1::2])
    whole = CurvatureMatrices(matrices.map, (*first, *second))
    vectors = Draws(1).normal(4, 3)
    assert whole.samples == 6
    torch.testing.assert_close(whole(vectors), matrices(vectors))


def test_windows_of_one_sample_stay_together():
    x, c = torch.arange(8.0).reshape(8, 1), torch.ones(8, 1)
    first, _ = split_in_halves([CapturedCall(x, c, 4, 4, (0, 0))])
    assert first[0].input.flatten().tolist() == [0, 1, 4, 5]


def test_a_single_batch_without_visible_samples_stays_whole():
    call = CapturedCall(torch.ones(3, 1), torch.ones(3, 1), 1, 2, (0, 0))
    assert split_in_halves([call]) == [(call,)]


@pytest.mark.parametrize("name", MODULES)
def test_what_carries_all_of_it_is_all_of_it(name):
    matrices = _matrices(name, (6, 4))
    vectors = Draws(3).normal(matrices.map.neurons, matrices.map.features)
    torch.testing.assert_close(matrices.heaviest(1.0)(vectors), matrices(vectors))


@pytest.mark.parametrize("name", ["linear over tokens", "conv2d strided"])
def test_what_is_left_out_bounds_the_change_of_every_matrix(name):
    matrices = _matrices(name, (40, 30))
    kept = matrices.heaviest(0.6)
    sizes = [
        sum(call.input.flatten(0, -2).shape[0] if not part.map.spatial else len(call.input) for call in part.captured)
        for part in (matrices, kept)
    ]
    assert sizes[1] < 0.75 * sizes[0]
    vectors = Draws(3).normal(matrices.map.neurons, matrices.map.features)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    change = (kept(vectors) - matrices(vectors)).norm(dim=1)
    assert bool((change > 0).all())
    assert bool((change <= _carried(matrices) - _carried(kept) + 1e-12).all())


def _carried(matrices):
    """Return ``1/N sum |c_it| |x_t|^2`` for each neuron, with |x_t| that of all that a position can read."""
    total = torch.zeros(matrices.map.neurons, dtype=torch.float64)
    for call in matrices.captured:
        if matrices.map.spatial:
            sums = call.coefficients.abs().flatten(2).sum(2)
            total += (sums * call.input.flatten(1).square().sum(1, keepdim=True)).sum(0)
        else:
            x, c = call.input.flatten(0, -2), call.coefficients.flatten(0, -2)
            total += (c.abs() * x.square().sum(1, keepdim=True)).sum(0)
    return total / matrices.samples


def test_a_position_that_carries_nothing_is_left_out():
    draws = Draws(0)
    x, c = draws.normal(50, 3), draws.normal(50, 4)
    c[10:] = 0
    matrices = CurvatureMatrices(LinearMap(4, 3, 3), (CapturedCall(x, c, 50, 50, (0, 0)),))
    (kept,) = matrices.heaviest(1.0).captured
    assert torch.equal(kept.input, x[:10])
    assert kept.samples == 50


@pytest.mark.parametrize("name", ["linear over tokens", "conv2d strided"])
def test_a_few_positions_are_those_that_carry_most(name):
    matrices = _matrices(name, (40, 30))
    few = matrices.few(1 / 4)
    assert few.positions == sum(int(call.positions(spatial=matrices.map.spatial > 0) / 4) for call in matrices.captured)
    assert bool(_carried(few).sum() > 0.25 * _carried(matrices).sum())


def test_a_few_of_very_few_positions_are_one():
    call = CapturedCall(torch.tensor([[1.0], [3.0]]), torch.ones(2, 4), 2, 2, (0, 0))
    (kept,) = CurvatureMatrices(LinearMap(4, 1, 1), (call,)).few(1 / 16).captured
    assert kept.input.tolist() == [[3.0]]
