"""A growth event that fails anywhere has changed nothing, and the next one goes through."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

import fxgrow
from fxgrow.execution.randomness import random_state
from fxgrow.optimizers import succession
from fxgrow.optimizers.groups import Groups
from fxgrow.record.record import record_of
from fxgrow.training import CompiledBlocks, Grower, Growing, events, grower, growing


class Injected(Exception):
    """The failure that a test injects; no code of fxgrow knows it."""


def batches() -> list[tuple[Tensor, Tensor]]:
    drawn = np.random.default_rng(0)
    return [(torch.from_numpy(drawn.standard_normal((32, 4))).float(), torch.arange(32) % 3) for _ in range(2)]


def make(kind: type[Optimizer] = AdamW) -> Grower:
    layers = [nn.Linear(4, 8), nn.GELU(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)]
    traced = fxgrow.trace(nn.Sequential(*layers), torch.ones(2, 4))
    traced.get_submodule("2").eval()  # frozen statistics, in a model that trains
    optimizer = kind(traced.parameters(), lr=0.01)
    F.cross_entropy(traced(batches()[0][0]), batches()[0][1]).backward()
    optimizer.step()
    grown = Grower(traced, F.cross_entropy, optimizer, budget=0.5, at=(1, 2), compile_options={"backend": "eager"})
    grown.model.add_averages(AveragedModel(grown.model))
    return grown


def average_of(grown: Grower) -> nn.Module:
    return grown.model.averages[0].module


def everything(grown: Grower) -> dict[str, Any]:
    """Return all that an event may change, tensors by identity and by version."""
    traced = grown.graph_module
    return {
        "objects": (id(traced), id(grown.model)),
        "numbers": (grown.remaining, grown.history, record_of(traced)),
        "nodes": [(node.format_node(), copy.deepcopy(node.meta.get("custom"))) for node in traced.graph.nodes],
        "tensors": [(name, id(t), t._version, t.tolist()) for name, t in traced.state_dict(keep_vars=True).items()],
        "average": [(name, id(t), t._version) for name, t in average_of(grown).named_parameters()],
        "gradients": [(name, id(p.grad)) for name, p in traced.named_parameters()],
        "modes": [(name, module.training) for name, module in traced.named_modules()],
        "held": [id(p) for group in grown.optimizer.param_groups for p in group["params"]],
        "optimizer": repr(grown.optimizer.state_dict()),
        "random": repr(random_state()),
    }


def failing(call: Callable[..., Any], *, after: bool, turn: int = 1) -> Callable[..., Any]:
    """Return `call`, failing at one of its turns, before or after it has done its work."""
    calls = iter(range(1, 1000))

    def wrapped(*arguments: Any, **options: Any) -> Any:
        now = next(calls) == turn
        if now and not after:
            raise Injected
        result = call(*arguments, **options)
        if now:
            raise Injected
        return result

    return wrapped


#: where an event can fail: what is called, on what, and at which turn
STEPS: dict[str, tuple[Any, str, int]] = {
    "reading the batches": (events, "read_batches", 1),
    "measuring": (events, "analyze", 1),
    "the loss before": (events.Event, "loss", 1),
    "planning and growing": (events, "grow", 1),
    "choosing a group": (Groups, "choose", 2),
    "making state": (succession, "initial_state", 2),
    "ordering the groups": (Groups, "settle", 1),
    "the loss after": (events.Event, "loss", 2),
    "comparing the losses": (grower, "check_equal", 1),
    "writing the history": (grower, "remember", 1),
    "becoming another graph": (growing, "become", 1),
    "growing the average": (growing, "follow", 1),
    "compiling": (CompiledBlocks, "follow", 2),  # the average's is the first
    "wrapping": (Growing, "_run", 2),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_a_failure_leaves_nothing_behind(name: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = make(Adagrad if name == "making state" else AdamW)
    before = everything(growing)
    home, attribute, turn = STEPS[name]
    with monkeypatch.context() as patched:
        patched.setattr(home, attribute, failing(getattr(home, attribute), after=after, turn=turn))
        with pytest.raises(Injected):
            growing.grow(batches())
    assert everything(growing) == before
    growing.grow(batches())
    held = [id(p) for group in growing.optimizer.param_groups for p in group["params"]]
    assert held == [id(parameter) for parameter in growing.graph_module.parameters()]
    assert len(growing.history) == 1


def test_growing_keeps_the_mode_of_every_module() -> None:
    growing = make()
    before = dict(growing.graph_module.named_modules())
    modes = {name: module.training for name, module in before.items()}
    growing.grow(batches())
    after = dict(growing.graph_module.named_modules())
    assert {name: after[name].training for name in modes} == modes
    assert not modes["2"]


def test_an_interrupt_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = make()
    before = everything(growing)

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Growing, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            growing.grow(batches())
    assert everything(growing) == before
