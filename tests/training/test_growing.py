"""A model that grows stays one object, for its copies, its averages and its checkpoints too."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxgrow
from fxgrow.errors import PlanError, TraceError
from fxgrow.passes import parse
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of, remember
from fxgrow.testing import Draws
from fxgrow.training import Growing

#: two events at a site in a block, one of them nested, and a block that is inserted whole
EDITS = (
    'insert-pseudo-layers{rows={"blocks.0.fc1":[0,2]}}',
    'insert-pseudo-layers{rows={"blocks.0.fc1":[1],"head":[0,1,2]}}',
    'insert-block{after="blocks.1"}',
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.norm, self.drop = nn.Linear(6, 6), nn.GELU(), nn.BatchNorm1d(6), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.norm(self.act(self.fc1(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.blocks(features * self.scale))


def images(count: int = 8) -> Tensor:
    return Draws(dtype=torch.float32).normal(count, 6)


def make(**options: Any) -> Growing:
    torch.manual_seed(0)
    return Growing(fxgrow.trace(Model(), torch.ones(2, 6)), **options)


def train(model: Growing, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(images() + step).square().mean().backward()
        optimizer.step()


def grow(model: Growing, *edits: str) -> None:
    for edit in edits:
        model.become(parse(edit)(model.graph_module, model.optimizers).graph_module)


def grown(**options: Any) -> Growing:
    """Return a model that was trained and grew by all edits."""
    model = make(**options)
    model.optimizers = AdamW(model.parameters(), lr=0.01)
    for edit in EDITS:
        train(model, model.optimizers)
        grow(model, edit)
    train(model, model.optimizers)
    return model


def outputs(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(images())


def test_all_objects_stay_and_all_names_are_those_of_the_graph() -> None:
    model = make()
    traced, kept = model.graph_module, dict(model.named_parameters())
    grow(model, *EDITS)
    assert model.graph_module is traced
    assert dict(model.named_parameters()).items() >= kept.items()
    assert [name for name in model.state_dict() if name != "_extra_state"] == list(traced.state_dict())
    assert inspect.signature(model.forward).parameters.keys() == {"features"}


def test_hooks_on_it_stay() -> None:
    model, seen = make(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    grow(model, EDITS[0])
    model(images())
    assert seen == [1]


@pytest.mark.parametrize("options", [None, {"backend": "eager"}], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "pickled"]
)
def test_a_copy_is_a_model_of_its_own_that_can_grow(copied: Callable[[Growing], Growing], options: Any) -> None:
    model = grown(compile_options=options)
    twin = copied(model)
    assert torch.equal(outputs(twin), outputs(model))
    assert list(twin.state_dict()) == list(model.state_dict())
    assert fxgrow.depth_map(twin.graph_module) == fxgrow.depth_map(model.graph_module)
    before = outputs(model)
    grow(twin, EDITS[0])
    torch.testing.assert_close(outputs(twin), before)
    assert len(list(twin.parameters())) > len(list(model.parameters()))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}


def test_a_fresh_model_loads_the_state_of_a_grown_one() -> None:
    model, fresh, file = grown(), make(), io.BytesIO()
    torch.save({"inside": model.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)["inside"]
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(outputs(fresh), outputs(model))
    assert digest(fresh.graph_module) == digest(model.graph_module)


def test_a_model_inside_another_loads_too() -> None:
    outer, fresh = nn.Sequential(nn.Identity(), grown()), nn.Sequential(nn.Identity(), make())
    fresh.load_state_dict(outer.state_dict(), strict=True)
    assert torch.equal(outputs(fresh), outputs(outer))


@pytest.mark.parametrize("events", [0, 1, 2])
def test_loading_an_earlier_state_takes_back_what_grew_since(events: int) -> None:
    model = make()
    model.optimizers = AdamW(model.parameters(), lr=0.01)
    grow(model, *EDITS[:events])
    train(model, model.optimizers)
    earlier, expected = copy.deepcopy(model.state_dict()), outputs(model)
    grow(model, *EDITS[events:])
    model.train()
    train(model, model.optimizers)
    model.load_state_dict(earlier, strict=True)
    assert torch.equal(outputs(model), expected)
    held = [id(p) for group in model.optimizers.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]


def test_a_state_dict_of_the_plain_model_is_loaded_as_ever() -> None:
    plain, model = Model(), make()
    model.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(model.graph_module.state_dict(), strict=True)
    torch.testing.assert_close(outputs(model), outputs(plain))


def test_a_state_of_another_base_is_refused_and_nothing_changes() -> None:
    other = Growing(fxgrow.trace(nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)), torch.ones(2, 6)))
    before = digest(other.graph_module)
    with pytest.raises(TraceError, match="the edits of this state make another model of this base"):
        other.load_state_dict(grown().state_dict())
    assert digest(other.graph_module) == before
    with pytest.raises(TraceError, match="it is no structure of a grown model"):
        other.load_state_dict({"_extra_state": torch.zeros(3, dtype=torch.uint8)})


def averages(model: Growing) -> list[nn.Module]:
    return [
        AveragedModel(model),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
        AveragedModel(model.graph_module),
        ModelEmaV3(model, decay=0.9),
        ModelEmaV3(model, decay=0.9, foreach=False, exclude_buffers=True),
    ]


@pytest.mark.parametrize("index", range(5))
def test_an_average_grows_too_and_stays_the_average(index: int) -> None:
    """Old tensors are the average of all their values; new ones that of their values since they are there."""
    model = make()
    model.optimizers = AdamW(model.parameters(), lr=0.01)
    average, plain = averages(model)[index], averages(model)[index]  # the second one sees only what does not grow
    model.add_averages(average)
    update: Callable[[nn.Module, nn.Module], None] = lambda ema, now: getattr(  # noqa: E731
        ema, "update_parameters", getattr(ema, "update", None)
    )(now)
    witness = make()
    for edit in (*EDITS, None):
        train(model, model.optimizers)
        witness.load_state_dict({k: v for k, v in model.state_dict().items() if k in witness.graph_module.state_dict()})
        update(average, model)
        update(plain, witness if index != 2 else witness.graph_module)
        if edit is not None:
            before = outputs(average)
            grow(model, edit)
            torch.testing.assert_close(outputs(average), before)
            assert [p.shape for p in average.module.parameters()] == [p.shape for p in model.parameters()]
    old = dict(plain.module.named_parameters())
    kept = dict(average.module.named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in old.items())
    assert any(not torch.equal(kept[name], value) for name, value in model.named_parameters() if name not in old)


@pytest.mark.parametrize("other", [nn.Linear(2, 2), nn.ModuleList([make(), make()])], ids=["none", "two"])
def test_what_holds_no_copy_or_two_is_no_average(other: nn.Module) -> None:
    with pytest.raises(
        PlanError, match=r"ema: \w+: it holds \d copies of the model, and not one; make it of the traced"
    ):
        make().add_averages(other)


def test_what_wraps_it_is_made_anew_and_the_object_stays() -> None:
    wrapped: list[nn.Module] = []

    def wrap(module: nn.Module) -> nn.Module:
        wrapped.append(nn.Sequential(module))
        return wrapped[-1]

    model = make(wrap=wrap)
    grow(model, EDITS[0])
    assert model.runner is wrapped[1]
    assert "blocks.0.fc1.weight" in model.state_dict()
    model.eval()
    assert not any(module.training for module in wrapped[1].modules())


def test_a_wrap_that_fails_leaves_the_model_and_what_wraps_it() -> None:
    made: list[nn.Module] = []

    def wrap(module: nn.Module) -> nn.Module:
        if made:
            raise RuntimeError("no process answers")
        made.append(nn.Sequential(module))
        return made[-1]

    model = make(wrap=wrap, compile_options={"backend": "eager"})
    before, parameters = outputs(model), list(model.parameters())
    with pytest.raises(RuntimeError, match="no process answers"):
        grow(model, EDITS[0])
    assert model.runner is made[0]
    assert torch.equal(outputs(model), before)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_loading_a_state_of_the_same_structure_leaves_the_graph_and_takes_the_history() -> None:
    model = grown()
    graph, state = model.graph_module.graph, model.state_dict()
    remember(model.graph_module, {"epoch": (3, 4)})
    told = model.state_dict()
    model.load_state_dict(state)
    assert model.graph_module.graph is graph
    assert record_of(model.graph_module).history[-1].context == {}
    model.load_state_dict(told)
    assert record_of(model.graph_module).history[-1].context == {"epoch": [3, 4]}


def test_an_event_compiles_one_new_graph() -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    model = make(compile_options={"backend": counter})
    model(images())
    compiled = counter.frame_count
    grow(model, 'insert-pseudo-layers{rows={"blocks.0.fc1":[0,2],"blocks.1.fc1":[0,2]}}')
    model(images())
    assert counter.frame_count == compiled + 1
