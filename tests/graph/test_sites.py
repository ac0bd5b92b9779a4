"""Sites are found in every form, once each, with the reason where they may not grow."""

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.graph.linear_map import LinearMap
from fxgrow.graph.sites import find_sites, site_input


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(6, 4))
        self.stem = nn.Module()
        self.stem.weight, self.stem.bias = nn.Parameter(torch.randn(4, 3, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv1d(x, self.stem.weight, self.stem.bias, padding=1)
        return F.linear(x.mean(-1), self.in_proj_weight)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.tied, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.tied(self.layer(self.layer(x))))


class Standardised(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


def test_modules_and_functional_calls_are_sites_by_their_module_path() -> None:
    sites = find_sites(fx.symbolic_trace(Functional()))
    assert list(sites) == ["stem", "in_proj_weight"]
    assert sites["stem"].bias == "stem.bias"
    assert sites["stem"].map == LinearMap(4, 9, 3, (3,), (1,), (1,), (1,))
    assert (sites["in_proj_weight"].neurons, sites["in_proj_weight"].features) == (6, 4)


def test_a_module_called_twice_is_one_site_with_two_calls() -> None:
    site = find_sites(fx.symbolic_trace(Reused()))["layer"]
    assert len(site.calls) == 2
    assert site_input(site.calls[1]) is site.calls[0]
    assert site.refusal is None


def test_tied_weights_are_refused_and_the_partner_is_named() -> None:
    sites = find_sites(fx.symbolic_trace(Reused()))
    assert sites["tied"].refusal == "its weight is tied to other.weight"
    assert sites["other"].refusal == "its weight is tied to tied.weight"


def test_a_layer_that_computes_its_weight_is_no_site() -> None:
    assert find_sites(fx.symbolic_trace(nn.Sequential(Standardised(3, 3), nn.Linear(3, 3)))).keys() == {"1"}


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(6, 4),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2, dilation=2),
        nn.Conv1d(6, 4, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(6, 4, (3, 5), padding="same"),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Conv3d(6, 4, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_linear_map_computes_what_its_module_computes(module: nn.Module) -> None:
    linear = LinearMap.of_module(module)
    x = torch.randn(2, 6, *[7] * linear.spatial)
    rows = linear.to_rows(module.weight)
    assert rows.shape == (4, linear.features)
    assert torch.equal(linear.to_weight(rows), module.weight)
    torch.testing.assert_close(linear(x, rows, module.bias), module(x))


def test_one_row_of_a_transposed_convolution_is_what_one_output_channel_reads() -> None:
    module = nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
    linear = LinearMap.of_module(module)
    rows = linear.to_rows(module.weight).detach().clone()
    rows[2] = 0
    output = linear(torch.randn(1, 6, 5, 5), rows)
    assert [bool(output[:, channel].any()) for channel in range(4)] == [True, True, False, True]
