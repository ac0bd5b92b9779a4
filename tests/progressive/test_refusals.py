"""What does not fit is refused, and changes nothing."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fxgrow.errors import PlanError, TraceError
from fxgrow.progressive import Progressive, Stage
from fxgrow.progressive.stages import make_stages
from fxgrow.rewriting import deepen
from fxgrow.tracing import trace
from fxgrow.training import Significance
from tests.progressive.conftest import data, halves, model


def test_more_stages_than_there_are_is_refused() -> None:
    growing = halves(model())
    growing.advance()
    with pytest.raises(PlanError, match="all of the model runs already"):
        growing.advance()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage(depth=("blocks.9",))], "blocks.9: no block of this name can be left out; choose among blocks.0"),
        ([Stage(depth=("blocks.0",)), Stage(depth=("blocks.1",))], "stage 1: blocks.0: it runs in the stage before"),
        ([Stage(depth=())], "blocks.0: no block of its kind runs in the stage before"),
        ([Stage(0.5), Stage(0.25)], "stage 0: it runs 2 of the 4 blocks like blocks.0, the next stage 1"),
        ([Stage(), Stage(0.5)], "stage 0: it runs 4 of the 4 blocks like blocks.0, the next stage 2"),
        ([Stage(width=0.5), Stage(width=0.25)], "stage 1: its width is less than that of the stage before"),
        ([Stage(0.5), Stage(0.4)], "nothing wakes behind it: .* leave one of them out"),
        ([0.5], r"stages: it is \[0.5\]; give a list of fxgrow.Stage"),
        (0.5, r"stages: it is a float; give a list of fxgrow.Stage"),
        (iter([0.5]), r"stages: 0.5 is no stage; give a list of fxgrow.Stage"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Progressive(model(), data()[0], stages=stages)


@pytest.mark.parametrize("share", [0, -1, 2, "half", None, True, float("nan"), "blocks.0", {"blocks.0"}])
def test_what_is_no_share_of_a_model_is_refused(share: Any) -> None:
    refused = "shares of a model are numbers between 0 and 1|(depth|width): it is .*; give a number"
    with pytest.raises(PlanError, match=refused):
        Stage(depth=share)
    with pytest.raises(PlanError, match=refused):
        make_stages(1.0, share, None)


def test_shares_beside_stages_and_paths_as_a_share_are_refused() -> None:
    with pytest.raises(PlanError, match="stages: they are given beside depth= or width="):
        make_stages(0.5, 1.0, [Stage(0.25)])
    with pytest.raises(PlanError, match="depth: it is a share, which doubles"):
        make_stages(("blocks.0",), 1.0, None)  # type: ignore[arg-type]


def test_doubling_leaves_out_stages_in_which_nothing_would_wake() -> None:
    assert [stage.depth for stage in Progressive(model(), data()[0], depth=1e-3).stages] == [0.128, 0.256, 0.512, 1]


@pytest.mark.parametrize("given", ["optimizer", 3, nn.Linear(1, 1)])
def test_an_advance_with_something_else_than_an_optimizer_changes_nothing(given: Any) -> None:
    growing = halves(model())
    before = copy.deepcopy(growing.state_dict())
    with pytest.raises(PlanError, match="it is no optimizer"):
        growing.advance(given)
    assert all(torch.equal(value, before[name]) for name, value in growing.state_dict().items())


def test_a_state_dict_of_other_stages_is_refused_and_changes_nothing() -> None:
    growing, other = halves(model()), halves(model(5), 0.25)
    before = copy.deepcopy(growing.state_dict())
    with pytest.raises(PlanError, match="the state dict is in stage 0 of 3, and the model has 2 stages"):
        growing.load_state_dict(other.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in growing.state_dict().items())


@pytest.mark.parametrize("said", ["first", torch.tensor(1), torch.tensor([]), torch.tensor([1.0, 0, 0])])
def test_an_entry_that_is_no_stage_is_refused_and_changes_nothing(said: Any) -> None:
    growing = halves(model())
    state = growing.state_dict() | {"head.bias": torch.zeros(3), "fxgrow_stage": said}
    with pytest.raises(PlanError, match=r"fxgrow_stage: .* is no stage, and samples in each stage; load what"):
        growing.load_state_dict(state)
    assert growing.get_parameter("head.bias").abs().sum() > 0


def test_a_block_that_is_named_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="it names a block twice"):
        Stage(depth=("blocks.0", "blocks.0"))


@pytest.mark.parametrize("repetitions", [-1, 1.5, "3", None])
def test_what_is_no_number_of_repetitions_is_refused(repetitions: Any) -> None:
    with pytest.raises(PlanError, match="repetitions"):
        halves(model()).costs(repetitions=repetitions)


def test_a_batch_on_which_the_model_does_not_run_is_refused() -> None:
    with pytest.raises(PlanError, match="costs: the model does not run on the batch"):
        halves(model()).costs(torch.zeros(2, 9).double(), repetitions=1)


def test_options_that_do_not_compile_change_nothing() -> None:
    growing = halves(model())
    with pytest.raises(Exception, match="Invalid backend"):
        growing.compile(backend="none of them")
    growing.advance()
    assert growing(data()[0]).shape == (6, 3)


def test_a_model_that_grows_by_stages_already_is_refused() -> None:
    with pytest.raises(PlanError, match="it grows by stages already; give the model itself"):
        halves(halves(model()))


def test_who_wants_to_trace_or_grow_it_is_told_where_its_graph_is() -> None:
    growing = halves(model())
    for use in (
        lambda: trace(growing, data()[0]),
        lambda: deepen(growing),
        lambda: trace(torch.compile(growing), data()[0]),
    ):
        with pytest.raises(TraceError, match=r"it runs a traced graph of its own.*use its graph_module"):
            use()
    assert trace(growing.graph_module, data()[0]).graph is not None


def test_a_model_with_a_traced_part_of_that_name_is_a_model_like_any_other() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph_module = trace(model(), data()[0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.graph_module(x)

    holder = Holder()
    assert torch.equal(trace(holder, data()[0])(data()[0]), holder(data()[0]))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"it is no nn\.Module"):
        Progressive("model", data()[0])  # type: ignore[arg-type]


def test_a_model_without_residual_blocks_is_refused_with_the_reason() -> None:
    plain = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).double()
    with pytest.raises(PlanError, match="no block can be left out: it has no residual blocks"):
        Progressive(plain, data()[0], depth=0.5)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((1,), "is no schedule for 3 stages; give 2 times"),
        ((1, 2, 3), "is no schedule for 3 stages; give 2 times"),
        (5, r"\(5,\) is no schedule"),
        ("12", "at: it is a str; give a Schedule or an iterable of numbers or a number"),
        ((1, float("nan")), r"at: it is \(1, nan\); give a Schedule"),
        ((1, -1), "are not all epochs or steps"),
        (Significance(0.1), "it measures scores, at which an advance does not look"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(at: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Progressive(model(), data()[0], depth=0.25, at=at)


def test_times_are_refused_where_all_of_the_model_runs_from_the_start() -> None:
    with pytest.raises(PlanError, match="at: all of the model runs from the start, and nothing wakes; give a share"):
        Progressive(model(), data()[0], at=(3,))
