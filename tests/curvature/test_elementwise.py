import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jvp

from fxgrow.curvature.elementwise import region_after
from fxgrow.graph.sites import find_sites
from fxgrow.testing import Draws

SMOOTH = {
    "GELU": (nn.GELU(), F.gelu),
    "GELU tanh": (nn.GELU("tanh"), lambda z: F.gelu(z, approximate="tanh")),
    "SiLU": (nn.SiLU(), F.silu),
    "tanh": (nn.Tanh(), torch.tanh),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "softplus": (nn.Softplus(2.0), lambda z: F.softplus(z, 2.0)),
    "Mish": (nn.Mish(), F.mish),
    "ELU": (nn.ELU(), F.elu),
    "Hardswish": (nn.Hardswish(), F.hardswish),
}
KINKED = {
    "ReLU": (nn.ReLU(), [(0, 1)]),
    "ReLU in place": (nn.ReLU(inplace=True), [(0, 1)]),
    "LeakyReLU": (nn.LeakyReLU(0.25), [(0, 0.75)]),
    "ReLU6": (nn.ReLU6(), [(0, 1), (6, -1)]),
    "Hardtanh": (nn.Hardtanh(), [(-1, 1), (1, -1)]),
    "Hardsigmoid": (nn.Hardsigmoid(), [(-3, 1 / 6), (3, -1 / 6)]),
    "PReLU": (nn.PReLU(init=0.1), [(0, 0.9)]),
}


def _region(model):
    graph_module = torch.fx.symbolic_trace(model)
    (site, *_) = find_sites(graph_module).values()
    return region_after(graph_module, site.calls[0])


def _region_of(function):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x):
            return function(self.linear(x)).sum()

    return _region(Model())


def _second_by_nested_jvp(function, z):
    ones = torch.ones_like(z)
    return jvp(lambda x: jvp(function, (x,), (ones,))[1], (z,), (ones,))[1]


Z = torch.linspace(-5.03, 5.07, 60, dtype=torch.float64).reshape(20, 3)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_second_derivative_is_that_of_nested_jvp(name):
    module, function = SMOOTH[name]
    region = _region(nn.Sequential(nn.Linear(2, 3), module))
    assert not region.surrogate
    torch.testing.assert_close(region.second_derivative(Z), _second_by_nested_jvp(function, Z), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_becomes_a_softplus_of_sharpness_three(name):
    module, kinks = KINKED[name]
    region = _region(nn.Sequential(nn.Linear(2, 3), module))
    assert region.surrogate
    sigmoids = [(change, torch.sigmoid(3 * (Z - position))) for position, change in kinks]
    expected = sum(3 * change * s * (1 - s) for change, s in sigmoids)
    torch.testing.assert_close(region.second_derivative(Z), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    "function",
    [
        F.gelu,
        F.silu,
        torch.tanh,
        lambda z: z.sigmoid(),
        lambda z: F.gelu(z, approximate="tanh"),
        torch.ops.aten.gelu.default,
    ],
)
def test_functions_and_methods_are_activations_too(function):
    region = _region_of(function)
    torch.testing.assert_close(region.second_derivative(Z), _second_by_nested_jvp(function, Z), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda z: F.relu(z).square(), lambda z: 2.0 * (z > 0)),
        (lambda z: F.relu(z) ** 2, lambda z: 2.0 * (z > 0)),
        (
            lambda z: z * torch.sigmoid(1.702 * z),
            lambda z: _second_by_nested_jvp(lambda x: x * torch.sigmoid(1.702 * x), z),
        ),
        (lambda z: 2.0 * torch.tanh(z) + 1.0, lambda z: 2 * _second_by_nested_jvp(torch.tanh, z)),
    ],
    ids=["squared ReLU", "squared ReLU by power", "QuickGELU written out", "scaled tanh"],
)
def test_a_chain_of_elementwise_operations_is_one_activation(function, expected):
    region = _region_of(function)
    assert not region.surrogate
    torch.testing.assert_close(region.second_derivative(Z), expected(Z).double(), rtol=1e-10, atol=1e-14)


def test_batch_norm_in_eval_mode_enters_by_the_chain_rule():
    norm = nn.BatchNorm1d(3).double().eval()
    draws = Draws()
    norm.running_mean, norm.running_var = draws.normal(3), draws.uniform(3, low=0.5, high=2)
    norm.weight.data = draws.normal(3)
    model = nn.Sequential(nn.Linear(2, 3).double(), norm, nn.Tanh()).eval()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = scale.square() * _second_by_nested_jvp(torch.tanh, norm(Z))
    torch.testing.assert_close(_region(model).second_derivative(Z), expected.detach(), rtol=1e-10, atol=1e-14)


def test_the_region_is_not_evaluated_in_place():
    z = torch.full((2, 3), -1.0, dtype=torch.float64)
    _region(nn.Sequential(nn.Linear(2, 3), nn.SiLU(inplace=True))).second_derivative(z)
    assert z.unique().tolist() == [-1]


class _Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        return F.silu(self.gate(x)) * self.up(x)


def test_a_gate_ends_where_another_tensor_comes_in():
    region = _region(_Gated())
    torch.testing.assert_close(region.second_derivative(Z), _second_by_nested_jvp(F.silu, Z), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (nn.LayerNorm(3), "LayerNorm"),
        (nn.Softmax(-1), "Softmax"),
        (nn.BatchNorm1d(3), "BatchNorm in train mode"),
        (nn.Dropout(), "Dropout"),
        (nn.Linear(3, 3), "Linear"),
    ],
)
def test_what_is_no_activation_is_refused_with_its_name(tail, reason):
    assert reason in _region(nn.Sequential(nn.Linear(2, 3), tail, nn.Tanh()))


def test_an_output_that_others_read_too_is_no_neuron_of_its_own():
    assert "2 operations" in _region_of(lambda z: torch.tanh(z) + z.sum(-1, keepdim=True))


def test_an_identity_and_a_dropout_that_does_nothing_are_passed_through():
    region = _region(nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Dropout(0.5), nn.Tanh()).eval())
    torch.testing.assert_close(region.second_derivative(Z), _second_by_nested_jvp(torch.tanh, Z))


def test_straight_lines_are_no_activation():
    assert isinstance(_region_of(lambda z: operator.mul(z, 2.0) + 1.0), str)
