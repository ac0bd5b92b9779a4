"""What running a model may move is put back."""

import random

import numpy
import pytest
import torch
from torch import Tensor, nn

from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import preserved_randomness, random_state


class Restless(nn.Module):
    """Moves everything that a forward can move."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.cache: dict[str, Tensor] = {}
        self.calls = [0]
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.cache["x"] = x
        self.calls.append(len(self.calls))
        self.latest = x
        self.total = self.total + 1
        return self.norm(self.linear(x)) + torch.rand(3) + random.random() + numpy.random.rand()


def run_and_fail(model: nn.Module) -> None:
    model.train()
    model(torch.randn(2, 3)).sum().backward()
    model(torch.randn(2, 4))


def test_everything_is_put_back_after_a_run_and_after_an_error():
    model = Restless()
    model.linear.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    total, before = model.total, random_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), preserved(model):
        run_and_fail(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.total is total
    assert (model.cache, model.calls, hasattr(model, "latest")) == ({}, [0], False)
    assert not model.linear.training
    assert model.linear.weight.grad is None
    assert random_state() == before


def test_a_seed_repeats_the_random_stream():
    def draw() -> list[float]:
        return [float(torch.rand(())), random.random(), float(numpy.random.rand())]

    with preserved_randomness(3):
        first = draw()
    with preserved_randomness(3):
        assert draw() == first


class Accelerator:
    """What torch has for accelerators of which there can be several, as `torch.cuda` is."""

    def __init__(self) -> None:
        self.states = [1, 2]

    def get_rng_state_all(self) -> list[int]:
        return list(self.states)

    def set_rng_state_all(self, states: list[int]) -> None:
        self.states = states

    def manual_seed_all(self, seed: int) -> None:
        self.states = [seed, seed]


def test_an_accelerator_in_use_is_seeded_on_all_devices_and_put_back(monkeypatch):
    accelerator = Accelerator()
    monkeypatch.setattr("fxgrow.execution.randomness._accelerator", lambda: accelerator)
    with preserved_randomness(3):
        assert accelerator.states == [3, 3]
    assert accelerator.states == [1, 2]


def test_a_seed_is_not_kept_for_an_accelerator_that_starts_later():
    # torch keeps the calls for a device that has not started, and the last seed among them would win
    before = len(torch.cuda._queued_calls)
    with preserved_randomness(3):
        pass
    assert len(torch.cuda._queued_calls) == before


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, numpy.random.rand])
def test_the_random_state_tells_that_a_number_was_drawn(draw: object):
    with preserved_randomness():
        before = random_state()
        assert random_state() == before
        draw()  # type: ignore[operator]
        assert random_state() != before
