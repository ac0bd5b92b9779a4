"""Hooks, work in train(), and modules of other makers: traced exactly, or kept whole and said so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.graph.sites import find_sites
from fxgrow.record.record import record_of
from fxgrow.testing import Draws


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))


def network(inner: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), inner or Block(), nn.Linear(8, 3)).double()


def sample() -> Tensor:
    return Draws(1).normal(4, 6)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(sample()).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(model: nn.Module, traced: nn.Module) -> None:
    for mode in (True, False):
        torch.testing.assert_close(traced.train(mode)(sample()), model.train(mode)(sample()), rtol=1e-12, atol=1e-12)
        expected = gradients(model)
        found = gradients(traced)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-12)


def double_output(module: Any, args: Any, output: Tensor) -> Tensor:
    return output * 2


def double_input(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * 2,)


def double_by_keyword(module: Any, args: tuple[Tensor], kwargs: Any) -> Any:
    return (args[0] * 2,), kwargs


CHANGING: dict[str, Callable[[nn.Module], object]] = {
    "forward": lambda module: module.register_forward_hook(double_output),
    "forward, always called": lambda module: module.register_forward_hook(double_output, always_call=True),
    "pre": lambda module: module.register_forward_pre_hook(double_input),
    "pre, with keywords": lambda module: module.register_forward_pre_hook(double_by_keyword, with_kwargs=True),
}


@pytest.mark.parametrize("path", ["", "1", "1.fc1"])
@pytest.mark.parametrize("register", CHANGING.values(), ids=CHANGING)
def test_a_forward_hook_that_changes_a_value_is_part_of_the_graph(register: Callable[[nn.Module], object], path: str):
    model = network()
    register(model.get_submodule(path))
    traced = fxgrow.trace(model, sample())
    assert not record_of(traced).trace_policy["leaves"]
    assert "1.fc1" in find_sites(traced)
    check_same(model, traced)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_module_with_a_forward_hook_that_looks_on_stays_whole_so_that_the_hook_is_called(register: str):
    model, seen = network(), list[int]()
    getattr(model[1], register)(lambda *_: seen.append(1))
    traced = fxgrow.trace(model, sample())
    assert record_of(traced).trace_notes == (
        "1 stays whole, with 77.1% of the parameters: has a forward hook that looks on, which a graph does not call",
    )
    seen.clear()
    check_same(model, traced)
    assert len(seen) == 8


def test_a_hook_of_the_model_that_looks_on_is_noted():
    model = network()
    model.register_forward_hook(lambda *_: None)
    (note,) = record_of(fxgrow.trace(model, sample())).trace_notes
    assert note == "the model's own forward has a forward hook that looks on, which a graph does not call"


def test_a_module_with_backward_hooks_stays_whole():
    model = network()
    model[1].register_full_backward_hook(lambda module, before, after: (before[0] * 2,))
    traced = fxgrow.trace(model, sample())
    assert record_of(traced).trace_policy["leaves"] == ["1"]
    check_same(model, traced)


def test_backward_hooks_of_the_model_itself_are_named_as_the_cause():
    model = network()
    model.register_full_backward_pre_hook(lambda module, after: (after[0] * 2,))
    with pytest.raises(TraceError, match="the model has backward hooks, which a graph does not call; the traced graph"):
        fxgrow.trace(model, sample())


class KeepsNormsInEval(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.norm.running_mean += 1

    def train(self, mode: bool = True) -> "KeepsNormsInEval":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x))


class KeepsDropout(nn.Module):
    """Draws in eval mode too, as Monte Carlo dropout does; at a probability of 0, so that it can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(8, 8), nn.Dropout(0.0)

    def train(self, mode: bool = True) -> "KeepsDropout":
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc(x))


class Merges(nn.Linear):
    """LoRA that adds its product to the weight in eval mode."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.down, self.up = nn.Parameter(torch.ones(2, 8) / 4), nn.Parameter(torch.ones(8, 2) / 4)
        self.merged = False

    def train(self, mode: bool = True) -> "Merges":
        super().train(mode)
        if mode is self.merged:
            self.weight.data += (self.up @ self.down).data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        low_rank = 0 if self.merged else F.linear(F.linear(x, self.down), self.up)
        return super().forward(x) + low_rank


class Sets(nn.Module):
    """Overrides ``train()`` without doing anything of consequence there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.cache = nn.Linear(8, 8), dict[str, Tensor]()

    def train(self, mode: bool = True) -> "Sets":
        self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (KeepsNormsInEval, "leaves norm in eval mode in its train()"),
        (KeepsDropout, "leaves drop in train mode in its train()"),
        (Merges, "changes weight in its train()"),
        (lambda: nn.Sequential(KeepsNormsInEval(), nn.GELU()), "leaves norm in eval mode in its train()"),
    ],
)
def test_a_module_whose_train_does_work_stays_whole(inner: Callable[[], nn.Module], reason: str):
    model = network(inner())
    traced = fxgrow.trace(model, sample())
    assert any(reason in note for note in record_of(traced).trace_notes)
    check_same(model, traced)
    optimizer = torch.optim.SGD(traced.parameters(), 0.1)
    traced.train()(sample()).sum().backward()
    optimizer.step()
    check_same(model, traced)


def test_a_module_whose_train_does_nothing_of_consequence_is_traced_inside():
    traced = fxgrow.trace(network(Sets()), sample())
    assert "1.fc" in find_sites(traced)


def test_work_in_the_model_s_own_train_is_named_as_the_cause():
    with pytest.raises(TraceError, match=r"the model leaves norm in eval mode in its train\(\); the traced graph"):
        fxgrow.trace(KeepsNormsInEval().double(), Draws(1).normal(4, 8))


class Act(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


SCRIPTED: dict[str, Callable[[], nn.Module]] = {
    "scripted function": lambda: torch.jit.script(Act()),
    "traced function": lambda: torch.jit.trace(Act().double(), torch.ones(2, 8, dtype=torch.float64)),
    "scripted with parameters and buffers": lambda: torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))),
    "traced with parameters": lambda: torch.jit.trace(nn.Linear(8, 8).double(), torch.ones(2, 8, dtype=torch.float64)),
    "scripted inside a module": lambda: nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Linear(8, 8))),
}


@pytest.mark.parametrize("inner", SCRIPTED.values(), ids=SCRIPTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_torch_jit_compiled_stays_whole_and_everything_around_it_grows(inner: Callable[[], nn.Module]):
    model = network(inner())
    modes = [module.training for module in model.modules()]
    traced = fxgrow.trace(model, sample())
    assert [module.training for module in model.modules()] == modes
    check_same(model, traced)
    data = [(sample(), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    grown = fxgrow.grow(traced, fxgrow.analyze(traced, F.cross_entropy, data, iterations=2), budget=1.0)
    fxgrow.verify(model, grown, sample())


class WithExtraState(Block):
    """Scales by a number that lies in its extra state, as quantisers do."""

    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_a_module_with_extra_state_stays_whole_and_takes_it_back() -> None:
    model, halved = network(WithExtraState()), network(WithExtraState())
    halved[1].scale = 0.5
    traced = fxgrow.trace(model, sample())
    assert record_of(traced).trace_notes == (
        "1 stays whole, with 77.1% of the parameters: has extra state (get_extra_state), which a graph does not hold",
    )
    assert list(traced.state_dict()) == list(model.state_dict())
    traced.load_state_dict(halved.state_dict())
    check_same(halved, traced)
