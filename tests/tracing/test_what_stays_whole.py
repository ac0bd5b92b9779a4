"""Modules that tracing would falsify stay whole, as few of them as possible."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.record.record import record_of
from tests.tracing.models import Attention, Branching, Counting, FunctionalDropout, Noisy, TwoFaced, Wrapper, sample


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1)).bernoulli_(0.5)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x).float()


class AutocastOnDeviceOfInput(Autocast):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.linear(x)


@pytest.mark.parametrize("inner", [FunctionalDropout, Attention, DropPath])
def test_dropout_of_every_kind_follows_the_mode(inner: Callable[[], nn.Module]):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    traced.train()
    assert not torch.equal(traced(sample()), traced(sample()))
    traced.eval()
    assert torch.equal(traced(sample()), traced(sample()))


@pytest.mark.parametrize("inner", [FunctionalDropout, Attention])
def test_linear_maps_beside_dropout_stay_open_to_growth(inner: Callable[[], nn.Module]):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    assert record_of(traced).trace_policy["leaves"] == []
    assert any(path.startswith("inner.") for path in fxgrow.find_sites(traced))


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (TwoFaced, "train and in eval mode"),
        (Branching, "cannot be traced"),
        (Noisy, "random numbers"),
        (Counting, "updates its buffer calls"),
        (Autocast, "autocast"),
        (AutocastOnDeviceOfInput, "enters torch.autocast, which a graph does not record"),
    ],
)
def test_the_smallest_module_that_tracing_would_falsify_stays_whole(inner: Callable[[], nn.Module], reason: str):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    record = record_of(traced)
    assert record.trace_policy["leaves"] == ["inner"]
    assert len(record.trace_notes) == 1
    assert record.trace_notes[0].startswith("inner stays whole, with ")
    assert reason in record.trace_notes[0]
    assert set(fxgrow.find_sites(traced)) == {"first", "last"}


def test_several_difficult_modules_stay_whole_each():
    traced = fxgrow.trace(nn.Sequential(TwoFaced(), nn.Sequential(Branching()), Wrapper(Noisy())), sample())
    assert record_of(traced).trace_policy["leaves"] == ["0", "1.0", "2.inner"]


class TwoContexts(nn.Module):
    """Gives two reasons to stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.linear(x)
        with torch.autocast("cpu", enabled=False):
            return self.linear(x)


def test_two_findings_in_one_module_do_not_keep_the_module_around_it_whole():
    traced = fxgrow.trace(nn.Sequential(Wrapper(TwoContexts())), sample())
    assert record_of(traced).trace_policy["leaves"] == ["0.inner"]
    assert len(record_of(traced).trace_notes) == 1
