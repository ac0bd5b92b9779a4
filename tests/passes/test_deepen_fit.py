"""Copies of halved blocks are fitted to data, so that the pair computes what the block did."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.record.record import record_of
from tests.passes.deep_models import CASES, LinearBlock, make


def batches(x: Tensor) -> list[tuple[Tensor, None]]:
    return [(part, None) for part in (x, x.flip(0) * 0.7, x.roll(1, 1) + 0.1)]


def test_copies_are_fitted_so_that_the_pair_computes_what_the_block_did() -> None:
    model = nn.Sequential(LinearBlock(), LinearBlock()).double()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.4 * draw.standard_normal(parameter.shape)))
    x = torch.from_numpy(draw.standard_normal((64, 3)))
    traced = fxgrow.trace(model, x)
    deeper = fxgrow.deepen(traced, ["0", "1"], fit=batches(x))
    errors = record_of(deeper).history[0].context["fit"]
    assert all(after < 1e-3 * before for before, after in errors.values())
    halved = fxgrow.deepen(traced, ["0", "1"])
    expected = traced(x)
    assert (deeper(x) - expected).norm() < 0.05 * (halved(x) - expected).norm()


def test_a_fit_of_attention_and_mlp_brings_the_pair_nearer_and_leaves_everything_else() -> None:
    _, traced, x = make()
    known = {name: value.clone() for name, value in traced.state_dict().items()}
    deeper = fxgrow.deepen(traced, "blocks.1", fit=batches(x))
    (before, after) = record_of(deeper).history[0].context["fit"]["blocks.1"]
    assert 0 < after < 0.5 * before
    assert all(torch.equal(value, known[name]) for name, value in traced.state_dict().items())
    plain = fxgrow.deepen(traced, "blocks.1")
    changed = {name for name, value in deeper.named_parameters() if not torch.equal(value, plain.get_parameter(name))}
    assert changed == {f"blocks.2.{name}" for name in ("proj.weight", "proj.bias", "fc2.weight", "fc2.bias")}


def test_the_history_says_the_loss_before_of_half_steps_and_of_fitted_ones() -> None:
    _, traced, x = make()
    pairs = [(part, part.mean((1, 2)).gt(0).long()) for part, _ in batches(x)]

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(1), target)

    deeper = fxgrow.deepen(traced, "blocks.1", fit=iter(pairs), loss_fn=loss_fn)
    halved = fxgrow.deepen(traced, "blocks.1")
    with torch.no_grad():
        expected = [
            sum(float(loss_fn(module.eval()(part), target)) for part, target in pairs) / len(pairs)
            for module in (traced, halved, deeper)
        ]
    told = record_of(deeper).history[0].context["loss"]
    assert told == pytest.approx(expected, rel=1e-12)
    assert abs(told[2] - told[0]) < 0.5 * abs(told[1] - told[0]), "the fit takes half of the jump away"


class PassingOn(LinearBlock):
    """A branch whose last map makes rows of tokens with the samples behind them, as attention may, and drops some."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.drop = nn.Identity(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        made = self.down(self.up(x).transpose(0, 1).reshape(tokens * count, -1))
        made = made.view(tokens, count, width).transpose(0, 1)
        return x + F.dropout(self.drop(self.scale(made)), 0.5, self.training)


def test_what_passes_on_the_last_maps_value_does_not_stand_in_the_way() -> None:
    model = nn.Sequential(PassingOn(), PassingOn()).double()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.4 * draw.standard_normal(parameter.shape)))
    x = torch.from_numpy(draw.standard_normal((16, 4, 3)))
    deeper = fxgrow.deepen(fxgrow.trace(model, x), ["0", "1"], fit=[(x[:12], None), (x[12:], None)])
    errors = record_of(deeper).history[0].context["fit"]
    assert all(after < 1e-3 * before for before, after in errors.values())


class ConvolutionBlock(nn.Module):
    """A branch of two convolutions, in one dimension or more."""

    def __init__(self, dimensions: int, kernel: int, padding: str = "zeros") -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.up, self.down = convolution(3, 6, 1), convolution(6, 3, kernel, padding="same", padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).tanh())


@pytest.mark.parametrize(
    ("dimensions", "kernel", "padding"), [(1, 1, "zeros"), (1, 3, "reflect"), (2, 3, "zeros"), (3, 3, "circular")]
)
def test_a_branch_that_ends_in_a_convolution_is_fitted_too(dimensions: int, kernel: int, padding: str) -> None:
    model = nn.Sequential(*[ConvolutionBlock(dimensions, kernel, padding) for _ in range(2)]).double()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 1 / np.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(torch.from_numpy(size * draw.standard_normal(parameter.shape)))
    x = torch.from_numpy(draw.standard_normal((4096 // 4**dimensions, 3, *[4] * dimensions)))
    traced = fxgrow.trace(model, x)
    deeper = fxgrow.deepen(traced, "1", fit=[(x, None)])
    before, after = record_of(deeper).history[0].context["fit"]["1"]
    assert after < 0.5 * before
    halved = fxgrow.deepen(traced, "1")
    with torch.no_grad():
        distances = [(module(x) - traced(x)).square().sum() for module in (halved, deeper)]
    assert float(distances[1] / distances[0]) == pytest.approx(after / before, rel=1e-6), "of what the model computes"


@pytest.mark.parametrize("options", CASES[1:])
def test_a_branch_that_ends_in_more_than_a_linear_map_is_not_fitted(options: dict[str, str]) -> None:
    _, traced, x = make(**options)
    with pytest.raises(PassError, match=r"blocks.0: a residual branch does not end in a matrix product or"):
        fxgrow.deepen(traced, "blocks.0", fit=batches(x))
