"""Autograd functions and checkpoints inside a forward: no gradient is lost, and what is dropped is said."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.record.record import record_of
from fxgrow.tracing.autograd_functions import CHECKPOINTING


class Round(torch.autograd.Function):
    """Rounds, and lets gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Scale(torch.autograd.Function):
    """Two results, a number among the arguments, and the newer form with setup_context."""

    @staticmethod
    def forward(x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        return x * factor, x + factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * first + second, None


class Rerun(torch.autograd.Function):
    """A checkpoint by hand: it is handed a module, and serves ``.backward()`` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.module(x), gradient)
        return x.grad, None


class Called(torch.autograd.Function):
    """Calls what it is handed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


round_through = Round.apply  #: as modules keep it


def rounds(model: "Model", x: Tensor) -> Tensor:
    return round_through(x)


def scales(model: "Model", x: Tensor) -> Tensor:
    first, second = Scale.apply(x, 0.3)
    return first + second


def rounds_twice(model: "Model", x: Tensor) -> Tensor:
    return Round.apply(model.second(Round.apply(x)))


def reruns(model: "Model", x: Tensor) -> Tensor:
    return Rerun.apply(x, model.second)


def calls(model: "Model", x: Tensor) -> Tensor:
    return Called.apply(x, lambda value: value * 2)


def rounds_without_gradients(model: "Model", x: Tensor) -> Tensor:
    with torch.no_grad():
        rounded = Round.apply(x)
    return x * rounded


def checkpoints(model: "Model", x: Tensor) -> Tensor:
    return checkpoint(model.second, x, use_reentrant=True)


def checkpoints_in_training(model: "Model", x: Tensor) -> Tensor:
    return checkpoint(model.second, x, use_reentrant=True) if model.training else model.second(x)


def checkpoints_by_another_name(model: "Model", x: Tensor) -> Tensor:
    return functools.partial(checkpoint, use_reentrant=True)(model.second, x)


def checkpoints_in_segments(model: "Model", x: Tensor) -> Tensor:
    return checkpoint_sequential([model.second, nn.Tanh()], 2, x, use_reentrant=True)


def checkpoints_by_choice(model: "Model", x: Tensor) -> Tensor:
    contexts = functools.partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
    return checkpoint(model.second, x, use_reentrant=False, context_fn=contexts)


def checkpoints_without_gradients_inside(model: "Model", x: Tensor) -> Tensor:
    def run(value: Tensor) -> Tensor:
        with torch.no_grad():
            mean = value.mean()
        with torch.enable_grad():
            return model.second(value) * mean

    return checkpoint(run, x, use_reentrant=True)


def keeps_nothing(model: "Model", x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return model.second(x)


class Model(nn.Module):
    def __init__(self, middle: Callable[["Model", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.middle(self, torch.tanh(self.first(x)))))


class Around(nn.Module):
    """A model in the middle of another one."""

    def __init__(self, middle: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.inner, self.after = nn.Linear(4, 4), Model(middle), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


def sample() -> Tensor:
    return torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(sample()).square().sum().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


MIDDLES = {
    rounds: "Round, an autograd function, stays one operation",
    scales: "Scale, an autograd function, stays one operation",
    rounds_twice: "Round, an autograd function, stays one operation",
    reruns: "Rerun, an autograd function, stays one operation",
    rounds_without_gradients: "Round, an autograd function, stays one operation",
    checkpoints: CHECKPOINTING,
    checkpoints_in_training: CHECKPOINTING,
    checkpoints_by_another_name: CHECKPOINTING,
    checkpoints_in_segments: CHECKPOINTING,
    checkpoints_by_choice: CHECKPOINTING,
    checkpoints_without_gradients_inside: CHECKPOINTING,
    keeps_nothing: CHECKPOINTING,
}


@pytest.mark.parametrize("kind", [Model, Around])
@pytest.mark.parametrize(("middle", "note"), MIDDLES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_gradient_is_the_model_s_and_what_was_done_is_noted(middle: Any, note: str, kind: Any):
    model = kind(middle).double()
    expected = gradients(model)
    traced = fxgrow.trace(model, sample())
    assert any(note in sentence for sentence in record_of(traced).trace_notes)
    found = gradients(traced)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12)
    assert not record_of(traced).trace_policy["leaves"]


@pytest.mark.parametrize("middle", [rounds, scales, checkpoints])
def test_sites_on_both_sides_of_a_function_grow_and_learn(middle: Any):
    model = Model(middle).double()
    unused = gradients(model)
    traced = fxgrow.trace(model, sample())
    data = [(sample(), torch.tensor([0, 1, 0])), (sample() + 1, torch.tensor([1, 1, 0]))]
    grown = fxgrow.grow(traced, fxgrow.analyze(traced, F.cross_entropy, data), budget=1.0)
    fxgrow.verify(model, grown, sample())
    optimizer = torch.optim.SGD(grown.parameters(), 0.1)
    before = {name: value.detach().clone() for name, value in grown.named_parameters()}
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(grown(sample()), data[0][1]).backward()
        optimizer.step()
    still = {name for name, value in grown.named_parameters() if torch.equal(value, before[name])}
    assert still == {name for name, gradient in unused.items() if gradient is None}


def test_a_function_that_is_handed_another_function_stays_inside_its_module():
    traced = fxgrow.trace(Around(calls).double(), sample())
    assert record_of(traced).trace_policy["leaves"] == ["inner"]
    assert "Called" in record_of(traced).trace_notes[0]


def test_a_model_whose_own_forward_hands_over_a_function_is_refused_by_its_name():
    with pytest.raises(TraceError, match=r"Model: cannot be traced: .*Called"):
        fxgrow.trace(Model(calls).double(), sample())
