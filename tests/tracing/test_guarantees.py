"""What holds for every trace: the model is left alone, its state keeps its names, and what cannot be traced is said."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.record.digest import digest
from fxgrow.testing import random_scores
from tests.tracing.models import (
    Attention,
    Branching,
    Constants,
    Counting,
    FunctionalDropout,
    Noisy,
    TwoFaced,
    Wrapper,
    sample,
)


class Caching(nn.Module):
    """Keeps what it computed in eval mode, as timm's LeViT does, and its `train` returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.cache = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.bias[torch.arange(4)]
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[torch.arange(4)]
        return x + self.cache["bias"]


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
        self.alias = self.block[0]
        self.head = nn.Linear(4, 4)
        self.head.weight = self.block[0].weight
        self.token = nn.Parameter(torch.zeros(4))
        self.spare = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.block(self.block(x))) + self.token)


def test_names_order_and_identity_of_the_state_are_the_models():
    model = Reused()
    traced = fxgrow.trace(model, sample())
    assert list(traced.state_dict()) == list(model.state_dict())
    pairs = zip(model.named_parameters(), traced.named_parameters(), strict=True)
    assert all(name == other and ours is theirs for (name, ours), (other, theirs) in pairs)
    model.load_state_dict(traced.state_dict(), strict=True)


def state_of(model: nn.Module) -> list[Any]:
    return [
        [value.clone() for value in model.state_dict().values()],
        [module.training for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        [parameter.grad for parameter in model.parameters()],
        torch.get_rng_state(),
    ]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(torch.equal(first, second)) if isinstance(first, Tensor) else first == second


@pytest.mark.parametrize("inner", [Reused, Counting, Caching, Noisy, FunctionalDropout])
def test_the_model_and_the_random_state_stay_as_they_were(inner: Callable[[], nn.Module]):
    model = Wrapper(inner())
    model.inner.eval()
    before = state_of(model)
    fxgrow.trace(model, sample())
    assert same(before, state_of(model))


def test_a_failed_trace_leaves_the_model_as_it_was():
    model = Reused()
    before = state_of(model)
    with pytest.raises(TraceError):
        fxgrow.trace(model, torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    assert same(before, state_of(model))


def test_tracing_twice_gives_the_same_digest():
    model = Wrapper(nn.Sequential(TwoFaced(), Attention(), Constants()))
    assert digest(fxgrow.trace(model, sample())) == digest(fxgrow.trace(model, sample()))


@pytest.mark.parametrize(
    ("model", "inputs", "where", "what"),
    [
        (Branching(), sample(), "Branching", "cannot be traced"),
        (TwoFaced(), sample(), "TwoFaced", "build it without what only training needs"),
        (Wrapper(nn.Identity()), torch.ones(3, 5), "first", "does not run on the example inputs"),
        (Wrapper(nn.Linear(3, 4)), sample(), "inner", "does not run on the example inputs"),
        (Wrapper(nn.Identity()), (sample(), 1), "Wrapper", "do not fit its forward"),
        (Wrapper(nn.Identity()), {"y": sample()}, "Wrapper", "do not fit its forward"),
        (Noisy(), sample(), "output", "the traced graph is not the model"),
    ],
)
def test_what_cannot_be_traced_is_one_line_that_names_the_module(model: nn.Module, inputs: Any, where: str, what: str):
    with pytest.raises(TraceError) as caught:
        fxgrow.trace(model, inputs)
    assert str(caught.value).startswith(f"{where}: ")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


class Detector(nn.Module):
    """Its forward depends on values; its backbone does not."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Wrapper(nn.GELU()), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        return self.head(features) if features.sum() > -100 else features


def test_a_part_of_a_model_that_cannot_be_traced_grows_in_its_place():
    model = Detector()
    expected = model(sample())
    with pytest.raises(TraceError, match=r"values of x \(.* trace backbone, a submodule of it with 83% of its param"):
        fxgrow.trace(model, sample())
    backbone = fxgrow.trace(model.backbone, sample())
    model.backbone = fxgrow.grow(backbone, random_scores(backbone), budget=0.5)
    output = model(sample())
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert any(parameter.grad.any() for parameter in fxgrow.new_parameters(model.backbone).values())


def test_a_graph_module_passes_through_normalised_and_with_shapes():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    plain = fx.symbolic_trace(model)
    traced = fxgrow.trace(plain, sample())
    assert not traced.get_submodule("1").inplace
    assert plain.get_submodule("1").inplace
    assert all("type" in node.meta for node in traced.graph.nodes)
    assert digest(fxgrow.trace(traced, sample())) == digest(traced)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_traced_model_can_be_copied_and_pickled(copied: Callable[[nn.Module], nn.Module]):
    traced = fxgrow.trace(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), sample())
    assert torch.equal(copied(traced).eval()(sample()), traced.eval()(sample()))


@pytest.mark.parametrize("name", ["import", 'quoted"', "back\\slash", "two\nlines"])
def test_a_module_whose_name_cannot_be_written_as_python_is_refused_by_it(name: str):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(2, 2)})

        def forward(self, x: Tensor) -> Tensor:
            return self.parts[name](x)

    with pytest.raises(TraceError, match="can be no attribute; give the module another name") as caught:
        fxgrow.trace(Named(), torch.ones(2, 2))
    assert caught.value.where == f"parts.{name}"
