"""Checkpoints that a model takes are taken by its graph, and by what grows from it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.passes import parse


def rename(state: dict[str, Tensor], prefix: str) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}old_")]:
        state[prefix + name.removeprefix(f"{prefix}old_")] = state.pop(name)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(x).relu())


class ByHook(Block):
    """Renames old entries by a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self._register_load_state_dict_pre_hook(self.renamed)

    def renamed(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        rename(state, prefix)


class ByHookThatSeesTheModule(Block):
    """Renames old entries by a function that is given the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(renamed_if_it_has_parts)


def renamed_if_it_has_parts(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if isinstance(module.get_submodule("fc1"), nn.Linear):
        rename(state, prefix)


class ByOverride(Block):
    """Renames old entries, by version, in its own way of being loaded, and has a parameter itself."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale

    def _load_from_state_dict(
        self, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any], *rest: Any
    ) -> None:
        if metadata.get("version", 1) < 2:
            rename(state, prefix)
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class ByOverrideThatCounts(Block):
    """Renames old entries in its own way of being loaded, by how many layers lie in a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([nn.Linear(4, 4)]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for (layer,) in self.layers:
            x = layer(x)
        return super().forward(x)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if len(self.layers) == 2 and all(isinstance(layers[0], nn.Linear) for layers in self.layers):
            rename(state, prefix)
        super()._load_from_state_dict(state, prefix, *rest)


class Writing(Block):
    """Writes an entry of its own into every state dict, and takes it out again."""

    def __init__(self) -> None:
        super().__init__()
        self._register_state_dict_hook(with_a_stamp)
        self._register_load_state_dict_pre_hook(without_a_stamp)


def with_a_stamp(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    state[f"{prefix}stamp"] = torch.ones(1)


def without_a_stamp(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    state.pop(f"{prefix}stamp")


def model_of(kind: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), kind())


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def graphs_of(model: nn.Module) -> dict[str, nn.Module]:
    traced = fxgrow.trace(model, X)
    grown = parse('insert-pseudo-layers{rows={"0":[0]}}')(traced).graph_module
    return {"traced": traced, "grown": grown, "copied": copy.deepcopy(grown)}


@pytest.mark.parametrize("form", ["traced", "grown", "copied"])
@pytest.mark.parametrize("kind", [ByHook, ByHookThatSeesTheModule, ByOverride, ByOverrideThatCounts])
def test_old_names_in_a_checkpoint_are_understood(kind, form) -> None:
    source, graph_module = model_of(kind), graphs_of(model_of(kind))[form]
    old = {name.replace("1.fc", "1.old_fc"): value for name, value in source.state_dict().items()}
    graph_module.load_state_dict(dict(old), strict=form == "traced")
    assert torch.equal(graph_module.get_parameter("1.fc1.weight"), source.get_parameter("1.fc1.weight"))
    assert torch.equal(graph_module.eval()(X), source.eval()(X))


def test_a_model_that_renames_by_itself_is_understood() -> None:
    source, traced = ByHook(), fxgrow.trace(ByHook(), X)
    traced.load_state_dict({f"old_{name}": value for name, value in source.state_dict().items()})
    assert torch.equal(traced(X), source(X))


@pytest.mark.parametrize("form", ["traced", "grown", "copied"])
def test_what_a_model_writes_into_its_state_dict_is_written(form) -> None:
    graph_module = graphs_of(model_of(Writing))[form]
    state = graph_module.state_dict()
    assert torch.equal(state["1.stamp"], torch.ones(1))
    graph_module.load_state_dict(state)


@pytest.mark.parametrize("form", ["traced", "grown", "copied"])
@pytest.mark.parametrize(
    "kind", ["state_dict_pre_hook", "state_dict_post_hook", "load_state_dict_pre_hook", "load_state_dict_post_hook"]
)
def test_every_kind_of_hook_on_state_is_called_at_what_the_graph_has_taken_apart(kind, form) -> None:
    model, calls = model_of(Block), []
    getattr(model[1], f"register_{kind}")(lambda *_: calls.append(kind))
    graph_module = graphs_of(model)[form]
    calls.clear()
    state = graph_module.state_dict()
    assert len(calls) == (not kind.startswith("load"))
    graph_module.load_state_dict(state)
    assert calls


def test_versions_of_modules_stay() -> None:
    traced = fxgrow.trace(model_of(ByOverride), X)
    assert traced.state_dict()._metadata["1"] == {"version": 2}


def test_a_copy_is_loaded_apart_from_its_original() -> None:
    graphs = graphs_of(model_of(ByOverride))
    before = graphs["grown"].get_parameter("1.scale").clone()
    graphs["copied"].load_state_dict({"1.scale": torch.full((4,), 3.0)}, strict=False)
    assert torch.equal(graphs["copied"].get_parameter("1.scale"), torch.full((4,), 3.0))
    assert torch.equal(graphs["grown"].get_parameter("1.scale"), before)


def test_a_list_that_grew_inside_is_loaded_whole_by_a_class_that_counts_it() -> None:
    traced = fxgrow.trace(model_of(ByOverrideThatCounts), X)
    grown = parse('insert-pseudo-layers{rows={"1.layers.0.0":[0]}}')(traced).graph_module
    other = copy.deepcopy(grown)
    for parameter in other.parameters():
        parameter.data.fill_(2.0)
    other.load_state_dict(dict(grown.state_dict()), strict=True)
    assert torch.equal(other(X), grown(X))
