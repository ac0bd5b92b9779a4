"""Every public function looks through what training wraps around a model, and refuses what is no traced model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError, TraceError
from fxgrow.optimizers import extend_optimizer
from fxgrow.passes import parse
from fxgrow.primitives.unwrapping import bare, unwrap
from fxgrow.testing import random_scores


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def traced() -> fx.GraphModule:
    layers = [nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)]
    return fxgrow.trace(nn.Sequential(*layers), torch.ones(2, 4))


WRAPPERS: dict[str, Callable[[fx.GraphModule], nn.Module]] = {
    "compiled by fxgrow": lambda model: fxgrow.compile(model, backend="eager"),
    "compiled by torch": lambda model: torch.compile(model, backend="eager"),
    "in DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compiled in DistributedDataParallel": lambda model: torch.compile(
        nn.parallel.DistributedDataParallel(model), backend="eager"
    ),
}
DATA = [(torch.ones(4, 4), torch.arange(4) % 3)]

#: every public function that takes a model, on a model
FUNCTIONS: dict[str, Callable[[Any, Path], Any]] = {
    "add_residual_edge": lambda model, path: fxgrow.add_residual_edge(model, source="0", target="2"),
    "analyze": lambda model, path: fxgrow.analyze(model, F.cross_entropy, DATA, score="random"),
    "compile": lambda model, path: fxgrow.compile(model, backend="eager"),
    "depth_map": lambda model, path: fxgrow.depth_map(model),
    "find_sites": lambda model, path: fxgrow.find_sites(model),
    "fold_pairs": lambda model, path: fxgrow.fold_pairs(model),
    "grow": lambda model, path: fxgrow.grow(model, random_scores(bare(model)), budget=40),
    "insert_block": lambda model, path: fxgrow.insert_block(model, after="2"),
    "merge_branches": lambda model, path: fxgrow.merge_branches(model),
    "new_parameters": lambda model, path: fxgrow.new_parameters(model),
    "plan": lambda model, path: fxgrow.plan(model, random_scores(bare(model)), budget=40),
    "save": lambda model, path: fxgrow.save(model, path / "model.pt"),
    "slim": lambda model, path: fxgrow.slim(model),
    "to_networkx": lambda model, path: fxgrow.to_networkx(model),
    "undo": lambda model, path: fxgrow.undo(model),
    "verify": lambda model, path: fxgrow.verify(model, model, torch.ones(2, 4)),
    "widen": lambda model, path: fxgrow.widen(model, "0", by=2),
    "a pipeline": lambda model, path: parse("eliminate-dead-code")(model),
    "extend_optimizer": lambda model, path: extend_optimizer(torch.optim.SGD(bare(model).parameters(), lr=0.1), model),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_looks_through_wrappers(function: str, wrapper: str, tmp_path: Path) -> None:
    model = traced()
    FUNCTIONS[function](WRAPPERS[wrapper](model), tmp_path)


@pytest.mark.parametrize("function", sorted(set(FUNCTIONS) - {"verify", "grow", "plan"}))
def test_a_model_that_is_not_traced_is_our_own_error(function: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"Linear: it is no traced model; trace it first with fxgrow.trace"):
        FUNCTIONS[function](nn.Linear(4, 3), tmp_path)


@pytest.mark.parametrize("function", ["grow", "plan"])
def test_growing_a_model_that_is_not_traced_is_our_own_error(function: str) -> None:
    with pytest.raises(TraceError, match=r"Linear: it is no traced model; trace it first with fxgrow.trace"):
        getattr(fxgrow, function)(nn.Linear(4, 3), random_scores(traced()))


@pytest.mark.parametrize("call", [lambda: fxgrow.trace(print, torch.ones(1)), lambda: fxgrow.verify(3, traced())])
def test_what_is_no_module_is_our_own_error(call: Callable[[], Any]) -> None:
    with pytest.raises(TraceError, match=r"(builtin_function_or_method|int): it is no nn.Module; give the model"):
        call()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_model_inside_is_the_very_one(wrapper: str) -> None:
    model = traced()
    assert unwrap(WRAPPERS[wrapper](model)) is model


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_traced_inside(wrapper: str) -> None:
    model = traced()
    again = fxgrow.trace(WRAPPERS[wrapper](model), torch.ones(2, 4))
    assert list(again.state_dict()) == list(model.state_dict())


@pytest.mark.usefixtures("process_group")
def test_gradients_are_compared_inside_wrappers() -> None:
    model = traced()
    compared = [fxgrow.verify(model, wrap(model)).gradients for wrap in WRAPPERS.values()]
    assert compared == [fxgrow.verify(model, model).gradients] * len(WRAPPERS)


@pytest.mark.usefixtures("process_group")
def test_the_grower_takes_compiled_models_and_refuses_what_cannot_follow() -> None:
    model = traced()
    optimizer = torch.optim.AdamW(model.parameters())
    for name in ("compiled by fxgrow", "compiled by torch"):
        grower = fxgrow.Grower(WRAPPERS[name](model), F.cross_entropy, optimizer, compile=False)
        assert grower.graph_module is model
    with pytest.raises(
        TraceError, match=r"DistributedDataParallel: it cannot follow a model that grows; give the model"
    ):
        fxgrow.Grower(nn.parallel.DistributedDataParallel(model), F.cross_entropy, optimizer)
    with pytest.raises(TraceError, match="Linear: it is no traced model"):
        fxgrow.Grower(nn.Linear(2, 2), F.cross_entropy, optimizer)
    with pytest.raises(FxgrowError, match="str: it is no optimizer"):
        fxgrow.Grower(model, F.cross_entropy, "adamw")
