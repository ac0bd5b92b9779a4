"""Sites are found in every form, once each, with the reason where they may not grow."""

from typing import Any

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.graph.sites import find_sites, site_input
from fxgrow.operators import available_operators
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.widen import Widen
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.primitives.residual import add_rows


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


class Products(nn.Module):
    """Weights as (features, neurons), as GPT-2 keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Module()
        self.fc.weight, self.fc.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.proj = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.addmm(self.fc.bias, x, self.fc.weight)
        return hidden @ self.proj + torch.addmm(hidden[:, :3], hidden, self.proj, alpha=2.0)


class Standardised(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


def test_modules_and_functional_calls_are_sites_by_their_module_path() -> None:
    sites = find_sites(fx.symbolic_trace(Functional()))
    assert list(sites) == ["stem", "in_proj_weight"]
    assert sites["stem"].bias == "stem.bias"
    assert sites["stem"].map == LinearMap(4, 9, 3, (3,), (1,), (1,), (1,))
    assert (sites["in_proj_weight"].neurons, sites["in_proj_weight"].features) == (6, 4)


def test_matrix_products_with_a_parameter_are_sites_with_transposed_weights() -> None:
    torch.manual_seed(0)
    model = Products()
    traced = fx.symbolic_trace(model)
    sites = find_sites(traced)
    assert list(sites) == ["fc", "proj"]
    assert (sites["fc"].weight, sites["fc"].bias, sites["proj"].bias) == ("fc.weight", "fc.bias", None)
    assert (sites["fc"].neurons, sites["fc"].features) == (6, 4)
    assert site_input(sites["fc"].calls[0]).op == "placeholder"
    assert len(sites["proj"].calls) == 1  # the scaled product is another map
    rows = sites["fc"].rows(traced)
    assert torch.equal(sites["fc"].map.to_weight(rows), model.fc.weight)
    x = torch.randn(5, 4)
    torch.testing.assert_close(sites["fc"].map(x, rows, model.fc.bias), torch.addmm(model.fc.bias, x, model.fc.weight))


@pytest.mark.parametrize("operator", available_operators())
def test_what_grows_at_a_matrix_product_keeps_the_function_and_can_train(operator) -> None:
    torch.manual_seed(0)
    traced = fx.symbolic_trace(Products().double())
    grown = InsertPseudoLayers({"fc": (0, 3), "proj": (1,)}, operator=operator)(traced).graph_module
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(grown(x), traced(x), rtol=0, atol=1e-12)
    grown(x).square().sum().backward()
    added = {name: p for name, p in grown.named_parameters() if "_pseudo_" in name}
    assert any(bool(p.grad.any()) for p in added.values())


def test_exported_programs_have_the_same_sites() -> None:
    program = torch.export.export(Products(), (torch.randn(5, 4),)).module()
    assert [(site.neurons, site.features) for site in find_sites(program).values()] == [(6, 4), (3, 6)]


def test_a_module_called_twice_is_one_site_with_two_calls() -> None:
    site = find_sites(fx.symbolic_trace(Reused()))["layer"]
    assert len(site.calls) == 2
    assert site_input(site.calls[1]) is site.calls[0]
    assert site.refusal is None


def test_tied_weights_are_refused_and_the_partner_is_named() -> None:
    sites = find_sites(fx.symbolic_trace(Reused()))
    assert sites["tied"].refusal == "its weight is tied to other.weight"
    assert sites["other"].refusal == "its weight is tied to tied.weight"


class TwoNames(nn.Module):
    """Calls one module under both of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_a_module_with_two_names_is_one_site_that_grows_at_both_calls() -> None:
    traced = fxgrow.trace(TwoNames(), torch.randn(3, 4))
    sites = find_sites(traced)
    assert {path: (len(site.calls), site.refusal) for path, site in sites.items()} == {"first": (2, None)}
    grown = InsertPseudoLayers({"first": (0, 2)})(traced).graph_module
    assert len(grown.graph.find_nodes(op="call_function", target=add_rows)) == 2
    fxgrow.verify(traced, grown)
    with pytest.raises(PassError, match=r"first\.weight has other names too"):
        Widen("first", 2)(traced)


class Upsampling(nn.Module):
    """A transposed convolution that is told how far to reach: by place, by keyword, or not at all."""

    def __init__(self, how: str, kind: type[nn.Module]) -> None:
        super().__init__()
        self.how, self.up = how, kind(2, 4, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = [2 * extent for extent in x.shape[2:]]
        if self.how == "plainly":
            return self.up(self.up(x)[:, :2])
        return self.up(x, size) if self.how == "by place" else self.up(x, output_size=size)


@pytest.mark.parametrize("how", ["plainly", "by place", "by keyword"])
@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_transposed_convolution_that_is_told_its_size_is_refused_with_the_reason(how: str, kind: Any) -> None:
    extents = (3,) * int(kind.__name__[-2])
    x = torch.linspace(-1, 1, 4 * 3 ** len(extents), dtype=torch.float64).reshape(2, 2, *extents)
    traced = fxgrow.trace(Upsampling(how, kind).double(), x)
    refusal = find_sites(traced)["up"].refusal
    assert (refusal is None) == (how == "plainly")
    if refusal is not None:
        scores = fxgrow.analyze(traced, lambda y, t: (y.flatten(1).mean(1) - t).square().mean(), [(x, torch.zeros(2))])
        assert scores.refusals["up"] == refusal
        with pytest.raises(PassError, match="called with output_size"):
            InsertPseudoLayers({"up": (0,)}, operator="branch")(traced)


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
