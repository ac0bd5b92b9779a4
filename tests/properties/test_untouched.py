"""Whatever a model does to itself in forward, train() and eval(): afterwards it is as it was."""

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AnalysisError, FxgrowError
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import random_state
from fxgrow.inspection import summarize, to_text, view_tree
from fxgrow.testing import Draws


class Counter:
    def __init__(self) -> None:
        self.count, self.seen = 0, [1]


class Restless(nn.Module):
    """Computes two linear maps, and gives way to its habits before each forward and at each change of the mode."""

    def __init__(self, habits: list[Callable[["Restless"], object]], mode_habits: list[Any]) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4, max_norm=0.5)
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(4))
        self.register_buffer("none", None)
        self.habits, self.mode_habits = habits, mode_habits
        self.calls, self.cache, self.ordered = [0], {"x": torch.ones(2)}, OrderedDict(a=1, b=2)
        self.names, self.queue, self.nested = {"a"}, deque([1, 2]), {"list": [{"deep": [0]}]}
        self.counter, self.array, self.merged = Counter(), np.zeros(3), False
        self.torch_stream, self.python_stream = torch.Generator().manual_seed(1), random.Random(1)
        self.numpy_stream, self.old_numpy_stream = np.random.default_rng(1), np.random.RandomState(1)
        self.first.weight.grad = torch.ones(4, 4)
        self.handle = self.second.register_forward_hook(lambda module, args, output: output)

    def train(self, mode: bool = True) -> "Restless":
        super().train(mode)
        for habit in self.mode_habits:
            habit(self)
        return self

    def forward(self, ids: Tensor) -> Tensor:
        for habit in self.habits:
            habit(self)
        return self.second(F.gelu(self.norm(self.first(self.words(ids)))))


def merge(model: Restless) -> None:
    model.first.weight.data += model.second.weight.data * (-1 if model.merged else 1)
    model.merged = not model.merged


def scale_in_place(model: Restless) -> None:
    with torch.no_grad():
        model.first.weight.mul_(1.5)


HABITS: list[Callable[[Restless], object]] = [
    merge,
    scale_in_place,
    lambda model: model.first.weight.data.clamp_(min=0),
    lambda model: setattr(model.first.weight, "data", torch.zeros(4, 4)),
    lambda model: setattr(model.second, "weight", nn.Parameter(torch.eye(4))),
    lambda model: model.second.weight.requires_grad_(not model.second.weight.requires_grad),
    lambda model: setattr(model.first.weight, "grad", None),
    lambda model: model.first.weight.grad is not None and model.first.weight.grad.mul_(2),
    lambda model: model.total.add_(1),
    lambda model: setattr(model, "total", model.total + 1),
    lambda model: model.register_buffer("extra", torch.ones(1), persistent=False),
    lambda model: model.register_buffer("none", torch.ones(1)),
    lambda model: setattr(model, "latest", 1),
    lambda model: model.norm.eval(),
    lambda model: model.add_module("late", nn.Linear(1, 1)),
    lambda model: model.first.register_forward_hook(lambda module, args, output: output),
    lambda model: model.handle.remove(),
    lambda model: model.first.weight.register_hook(lambda gradient: gradient),
    lambda model: model.calls.append(1),
    lambda model: (model.cache.update(y=2), model.cache["x"].add_(1)),
    lambda model: (model.ordered.move_to_end("a"), model.ordered.update(c=1)),
    lambda model: (model.names.add("b"), model.queue.popleft() if model.queue else None),
    lambda model: model.nested["list"][0]["deep"].append(1),
    lambda model: (setattr(model.counter, "count", 7), model.counter.seen.append(2), setattr(model.counter, "new", 1)),
    lambda model: model.array.__iadd__(1),
    lambda model: torch.rand(2, generator=model.torch_stream),
    lambda model: (model.python_stream.random(), model.numpy_stream.random(), model.old_numpy_stream.rand()),
    lambda model: (torch.rand(1), random.random(), np.random.rand()),
]


def fingerprint(value: Any, known: dict[int, int]) -> Any:
    """Describe everything that a model consists of, by value and by identity."""
    if isinstance(value, str | int | float | type(None)) or (callable(value) and not isinstance(value, nn.Module)):
        return id(value) if isinstance(value, FunctionType) else value
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = len(known)
    if isinstance(value, Tensor):
        hooks = dict(value._backward_hooks or {})
        return id(value), value.data_ptr(), value.tolist(), value.requires_grad, fingerprint(value.grad, known), hooks
    if isinstance(value, dict):
        return type(value), [(key, fingerprint(item, known)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), [fingerprint(item, known) for item in value]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.ndarray | np.random.RandomState):
        return repr(value if isinstance(value, np.ndarray) else value.get_state())
    return id(value), fingerprint(vars(value), known) if hasattr(value, "__dict__") else sorted(value)


def chosen(indices: list[int]) -> list[Callable[[Restless], object]]:
    return [HABITS[index] for index in indices]


some_habits = st.lists(st.integers(0, len(HABITS) - 1), max_size=4)
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
ids = torch.tensor([0, 3, 5])


@quick
@given(some_habits, some_habits, st.booleans())
def test_a_model_is_as_it_was_after_it_was_run_in_both_modes(habits: list[int], mode_habits: list[int], mode: bool):
    model = Restless(chosen(habits), chosen(mode_habits)).train(mode)
    before, stream = fingerprint(model, {}), random_state()
    with preserved(model):
        for training in (True, False, True):
            model.train(training)
            model(ids)
    assert fingerprint(model, {}) == before
    assert random_state() == stream


def trace(model: nn.Module) -> object:
    return fxgrow.trace(model, ids)


def trace_without_the_gate(model: nn.Module) -> object:
    return fxgrow.trace(model, ids, check=False)


def verify(model: nn.Module) -> object:
    return fxgrow.verify(model, model, ids, gradients=False)


def interrupted(model: nn.Module) -> object:
    calls = iter(range(100))

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    return fxgrow.trace(nn.Sequential(model, Stopping(stop)), ids)


class Stopping(nn.Identity):
    def __init__(self, stop: Callable[..., None]) -> None:
        super().__init__()
        self.register_forward_hook(stop)


@pytest.mark.parametrize("run", [trace, trace_without_the_gate, verify, interrupted])
def test_a_model_is_as_it_was_after_every_function_of_the_door(run: Callable[[nn.Module], object]):
    @settings(quick, max_examples=15)
    @given(some_habits, some_habits, st.booleans())
    def check(habits: list[int], mode_habits: list[int], mode: bool) -> None:
        model = Restless(chosen(habits), chosen(mode_habits)).train(mode)
        around = nn.Sequential(nn.Embedding(6, 6), nn.Flatten())  # a neighbour that has no habits
        before, stream = fingerprint([model, around], {}), random_state()
        with suppress(FxgrowError, KeyboardInterrupt):
            run(model)
        assert fingerprint([model, around], {}) == before
        assert random_state() == stream

    check()


@pytest.mark.parametrize("score", ["branch", "splitting", "hessian", "gradient", "gain"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_a_graph_is_as_it_was_after_an_analysis_that_ended_in_the_middle(score: str, fault: type[BaseException]):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3)).double()
    batches = [(Draws(seed).normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])) for seed in range(3)]
    traced = fxgrow.trace(model, batches[0][0]).train()
    before, stream, calls = fingerprint(list(model), {}), random_state(), []

    def stopping(output: Tensor, target: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise fault
        return F.cross_entropy(output, target)

    with pytest.raises((fault, AnalysisError)):
        fxgrow.analyze(traced, stopping, batches, score=score)
    assert len(calls) == 2
    assert fingerprint(list(model), {}) == before
    assert random_state() == stream
    assert traced.training


class Clamped(nn.Linear):
    """Keeps its weight positive, and counts."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(min=0)
        self.calls += 1
        return super().forward(x)


def test_what_stays_whole_in_a_traced_model_is_as_it_was_after_analyze_grow_save_and_inspect(tmp_path: Any):
    draws = Draws(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), Clamped(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    traced = fxgrow.trace(model, draws.normal(6, 4))
    model[2].weight.data.fill_(-1.0)
    before, stream = fingerprint(list(model), {}), random_state()
    data = [(draws.normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(2)]
    scores = fxgrow.analyze(traced, F.cross_entropy, data, iterations=2)
    grown = fxgrow.grow(traced, scores, budget=100)
    fxgrow.verify(traced, grown)
    fxgrow.save(grown, tmp_path / "model.pt")
    to_text(view_tree(grown))
    summarize(grown)
    assert fingerprint(list(model), {}) == before
    assert random_state() == stream
