"""Growth behind the back of whoever trains or writes the model is not passed over in silence."""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, AdamW, Optimizer

import fxgrow
from fxgrow.errors import LostGrowthWarning, PassError, PlanError, RankError
from fxgrow.optimizers import unchanged_on_failure
from fxgrow.passes import parse
from fxgrow.testing import Draws
from fxgrow.training import Growing

#: Makes one step of an optimizer for a model.
Step = Callable[[nn.Module, Optimizer], object]
INPUTS = Draws(dtype=torch.float32).normal(8, 4)
NEW = "0_pseudo_0.fc1.weight"
BEHIND = f"^{NEW}: the optimizer holds it, but it gets no gradient.*; train what the rewrite returned"


def traced() -> fx.GraphModule:
    return fxgrow.trace(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), INPUTS)


def grown(model: nn.Module, optimizer: Optimizer) -> fx.GraphModule:
    return parse('insert-pseudo-layers{rows={"0":[1,2]}}')(model, optimizer).graph_module


def loss(model: nn.Module) -> Tensor:
    result: Tensor = model(INPUTS).square().mean()
    result.backward()  # type: ignore[no-untyped-call]
    return result


def plain(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss(model)
    optimizer.step()


def by_closure(model: nn.Module, optimizer: Optimizer) -> None:
    """Make a step as Lightning does, whose gradients are made in the step."""

    def closure() -> float:
        optimizer.zero_grad()
        return loss(model).item()

    optimizer.step(closure)


@pytest.mark.parametrize(("step", "kind"), [(plain, AdamW), (by_closure, AdamW), (by_closure, LBFGS)])
def test_the_first_step_of_a_model_from_before_the_rewrite_is_an_error(step: Step, kind: type[Optimizer]) -> None:
    model = traced()
    optimizer = kind(model.parameters())  # type: ignore[call-arg]
    step(model, optimizer)
    grow = grown(model, optimizer)
    for _ in range(2):  # as long as it goes on
        with pytest.raises(PlanError, match=BEHIND):
            step(model, optimizer)
    step(grow, optimizer)
    step(grow, optimizer)


def test_a_rewrite_between_a_backward_pass_and_its_step_is_no_mistake() -> None:
    model = traced()
    optimizer = AdamW(model.parameters())
    loss(model)
    grow = grown(model, optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    with pytest.raises(PlanError, match=BEHIND):
        plain(model, optimizer)
    plain(grow, optimizer)


def test_a_rewrite_that_is_thrown_away_or_put_back_is_forgotten() -> None:
    model = traced()
    optimizer = AdamW(model.parameters())
    fxgrow.undo(grown(model, optimizer), optimizer=optimizer)
    plain(model, optimizer)
    with pytest.raises(PassError), unchanged_on_failure(optimizer):
        fxgrow.undo(grown(model, optimizer), [7])
    plain(model, optimizer)


def test_the_state_of_a_graph_is_out_of_date_once_what_grew_of_it_is_trained() -> None:
    model = traced()
    optimizer = AdamW(model.parameters())
    grow = grown(model, optimizer)
    with warnings.catch_warnings(action="error"):
        model.state_dict()
        plain(grow, optimizer)
        grow.state_dict()
    with pytest.warns(LostGrowthWarning, match="the state of a model from before it grew"):
        nn.ModuleDict({"inside": model}).state_dict()
    fxgrow.undo(grow, optimizer=optimizer)
    with warnings.catch_warnings(action="error"):
        model.state_dict()


def test_a_model_that_becomes_what_its_state_says_is_up_to_date() -> None:
    model, other = Growing(traced()), traced()
    optimizer = AdamW(model.parameters())
    model.train_with(optimizer)
    model.load_state_dict(Growing(grown(other, AdamW(other.parameters()))).state_dict())
    with warnings.catch_warnings(action="error"):
        plain(model, optimizer)
        model.state_dict()
        model.graph_module.state_dict()


def test_the_state_of_a_grown_model_is_not_dropped_without_a_word() -> None:
    model = traced()
    state = grown(model, AdamW(model.parameters())).state_dict()
    said = r"^inside: the state has 4 entries that this graph has not;.*Growing"
    inside = {f"inside.{name}": value for name, value in state.items()}
    with pytest.warns(LostGrowthWarning, match=said):
        nn.ModuleDict({"inside": traced()}).load_state_dict(inside, strict=False)
    with pytest.warns(LostGrowthWarning, match=said), pytest.raises(RuntimeError, match=NEW):
        nn.ModuleDict({"inside": traced()}).load_state_dict(inside)
    with warnings.catch_warnings(action="error"):
        traced().load_state_dict(model.state_dict())


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_what_is_put_into_a_wrapper_behind_its_back_does_not_run_in_it() -> None:
    holder = nn.Sequential(traced())
    wrapped, optimizer = DistributedDataParallel(holder), AdamW(holder.parameters())
    plain(wrapped, optimizer)
    holder[0] = grown(holder[0], optimizer)
    plain(holder, optimizer)
    with pytest.raises(RankError, match=f"^{NEW}: DistributedDataParallel does not know it"):
        plain(wrapped, optimizer)
