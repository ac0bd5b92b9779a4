"""A part of a model runs, and the rest wakes in place."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import PlanError, TraceError
from fxgrow.progressive import Progressive, Stage
from fxgrow.progressive.stages import make_stages
from fxgrow.training import Plateau, Significance
from tests.progressive.conftest import Model, data, model, train


def halves(whole: nn.Module, depth: float = 0.5) -> Progressive:
    return Progressive(whole, data()[0], depth=depth)


def test_idle_blocks_are_left_out_of_what_is_computed() -> None:
    whole = model()
    growing, (x, _) = halves(whole), data()
    assert growing.idle == ("blocks.1", "blocks.3")
    expected = whole.head(whole.blocks[2](whole.blocks[0](whole.stem(x))))
    assert torch.equal(growing(x), expected)


def test_woken_blocks_are_half_steps_of_their_neighbours() -> None:
    whole = model()
    growing, (x, _) = halves(whole), data()
    before = copy.deepcopy(whole)
    advance = growing.advance()
    h = before.stem(x)
    for source in (0, 2):
        for _ in range(2):
            h = h + (before.blocks[source](h) - h) / 2
    torch.testing.assert_close(growing(x), before.head(h), rtol=1e-12, atol=1e-12)
    assert advance.woken == {"blocks.0": ["blocks.1"], "blocks.2": ["blocks.3"]}
    assert growing.idle == ()


def test_several_blocks_may_start_from_one() -> None:
    whole = model()
    growing, (x, _) = Progressive(whole, data()[0], stages=[Stage(depth=0.25)]), data()
    before = copy.deepcopy(whole)
    growing.advance()
    h = before.stem(x)
    for _ in range(4):
        h = h + (before.blocks[0](h) - h) / 4
    torch.testing.assert_close(growing(x), before.head(h), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_idle_parameters_have_no_gradient_no_decay_and_no_state(optimizer: type[torch.optim.Optimizer]) -> None:
    whole = model()
    growing = halves(whole)
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    trained = optimizer(growing.parameters(), lr=1e-2, weight_decay=0.1, **options)
    before = copy.deepcopy(whole)
    train(growing, trained, 3)
    idle = dict(whole.blocks[1].named_parameters())
    assert all(parameter.grad is None and parameter not in trained.state for parameter in idle.values())
    assert all(torch.equal(parameter, before.blocks[1].get_parameter(name)) for name, parameter in idle.items())
    assert not torch.equal(whole.blocks[0].fc1.weight, before.blocks[0].fc1.weight)


def test_parameters_keep_their_identity_their_names_and_their_order() -> None:
    whole = model()
    known = dict(whole.named_parameters())
    growing = halves(whole, 0.25)
    for _ in range(2):
        growing.advance()
        assert list(dict(growing.named_parameters())) == list(known)
        assert all(parameter is known[name] for name, parameter in growing.named_parameters())


def test_the_last_stage_is_the_model_itself_bit_for_bit() -> None:
    whole = model()
    growing = halves(whole, 0.25)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    for _ in range(2):
        train(growing, optimizer, 2)
        growing.advance()
    train(growing, optimizer, 2)
    fresh = Model().double()
    fresh.load_state_dict(whole.state_dict(), strict=True)
    assert torch.equal(fresh(data()[0]), growing(data()[0]))


def test_both_halves_begin_with_fresh_moments_and_others_keep_theirs() -> None:
    whole = model()
    growing = halves(whole)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    train(growing, optimizer, 3)
    moments = optimizer.state[whole.head.weight]["exp_avg"].clone()
    advance = growing.advance()
    assert advance.restarted == 4 * 6
    assert torch.equal(optimizer.state[whole.head.weight]["exp_avg"], moments)
    assert not any(parameter in optimizer.state for parameter in whole.blocks.parameters())
    train(growing, optimizer, 1)
    assert all(optimizer.state[parameter]["step"] == 1 for parameter in whole.blocks.parameters())


def test_an_optimizer_that_has_not_stepped_yet_drops_the_moments_that_it_was_given() -> None:
    whole = model()
    growing = halves(whole)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    train(growing, optimizer, 2)
    loaded = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    loaded.load_state_dict(optimizer.state_dict())
    again = Progressive(whole, data()[0], depth=0.5)
    again.advance(loaded)
    assert whole.blocks[0].fc1.weight not in loaded.state
    assert whole.head.weight in loaded.state


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_a_killed_run_resumes_bit_equal_in_any_stage(stages: int) -> None:
    growing = halves(model(), 0.25)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    for _ in range(stages):
        train(growing, optimizer, 2)
        growing.advance()
    train(growing, optimizer, 1)
    kept = copy.deepcopy((growing.state_dict(), optimizer.state_dict()))
    resumed = halves(Model().double(), 0.25)
    again = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    resumed.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    assert (resumed.stage, resumed.samples) == (growing.stage, growing.samples)
    assert train(resumed, again, 3, seed=7) == train(growing, optimizer, 3, seed=7)
    if stages < 2:
        resumed.advance()
        growing.advance()
        assert train(resumed, again, 2, seed=9) == train(growing, optimizer, 2, seed=9)


def test_the_plain_state_dict_of_the_model_loads_and_leaves_the_stage() -> None:
    growing = halves(model())
    growing.load_state_dict(model().state_dict(), strict=True)
    assert growing.stage == 0


def test_an_average_of_the_weights_advances_along_and_a_snapshot_does_not() -> None:
    growing = halves(model())
    average, snapshot = torch.optim.swa_utils.AveragedModel(growing), copy.deepcopy(growing)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    for _ in range(2):
        train(growing, optimizer, 1)
        average.update_parameters(growing)
    averaged = copy.deepcopy(average.module.model.blocks[0].fc2.weight)
    growing.advance()
    assert (average.module.stage, snapshot.stage) == (1, 0)
    assert torch.equal(average.module.model.blocks[1].fc2.weight, averaged / 2)
    assert not torch.equal(average.module.model.blocks[1].fc2.weight, growing.model.blocks[1].fc2.weight)


def test_copies_are_independent_and_pickles_come_back_in_their_stage() -> None:
    growing = halves(model(), 0.25)
    growing.advance()
    x = data()[0]
    for other in (copy.deepcopy(growing), pickle.loads(pickle.dumps(growing))):
        assert (other.stage, other.idle) == (1, growing.idle)
        assert torch.equal(other(x), growing(x))
        other.advance()
        assert growing.stage == 1
        assert other.model.blocks[0].fc1.weight is not growing.model.blocks[0].fc1.weight


def test_dropout_inside_follows_the_mode() -> None:
    whole = model()
    for block in whole.blocks:
        block.drop.p = 0.5
    growing, (x, _) = halves(whole), data()
    growing.eval()
    assert torch.equal(growing(x), growing(x))
    growing.train()
    assert not torch.equal(growing(x), growing(x))
    assert not growing.eval().model.training


def test_every_stage_compiles_by_block_and_advance_reuses_what_is_compiled() -> None:
    compiled = []

    def backend(graph_module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph_module)
        return graph_module

    growing, (x, _) = halves(model()), data()
    growing.compile(backend=backend)
    expected = halves(model())(x)
    assert torch.equal(growing(x), expected)
    count = len(compiled)
    growing.advance()
    growing(x)
    assert len(compiled) == count


def test_costs_are_shown_before_and_after() -> None:
    growing = halves(model())
    train(growing, torch.optim.SGD(growing.parameters(), lr=1e-2), 2)
    growing.advance()
    costs = growing.costs(repetitions=1)
    first, last = costs.stages
    block = sum(parameter.numel() for parameter in growing.model.blocks[0].parameters())
    assert last.parameters == sum(parameter.numel() for parameter in growing.parameters())
    assert last.parameters - first.parameters == 2 * block
    assert last.flops - first.flops == 2 * 2 * 2 * 8 * 12
    assert (first.samples, last.samples) == (12, 0)
    assert costs.flops_saved == pytest.approx(1 - first.flops / last.flops)
    assert str(costs).splitlines()[-1].startswith("saved so far: ")
    assert all(parameter.grad is None or parameter.grad.any() for parameter in growing.parameters())


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
        ([0.5], r"stages: 0.5 is no stage; give a list of fxgrow.Stage"),
        (0.5, r"stages: 0.5 is no stage; give a list of fxgrow.Stage"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Progressive(model(), data()[0], stages=stages)


@pytest.mark.parametrize("share", [0, -1, 2, "half", None, True, float("nan"), "blocks.0", {"blocks.0"}])
def test_what_is_no_share_of_a_model_is_refused(share: Any) -> None:
    with pytest.raises(PlanError, match="shares of a model are numbers between 0 and 1"):
        Stage(depth=share)
    with pytest.raises(PlanError, match="shares of a model are numbers between 0 and 1"):
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


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"it is no nn\.Module"):
        Progressive("model", data()[0])  # type: ignore[arg-type]


def test_a_model_without_residual_blocks_is_refused_with_the_reason() -> None:
    plain = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).double()
    with pytest.raises(PlanError, match="no block can be left out: it has no residual blocks"):
        Progressive(plain, data()[0], depth=0.5)


class Staged(nn.Module):
    """A model whose parts have names that `Progressive` uses for itself, as `stages` in timm's ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.stage, self.idle = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.stages = nn.Sequential(*model().blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.idle(self.stages(self.stage(self.model(x))))


def test_a_model_may_have_parts_of_the_names_that_progressive_has() -> None:
    whole = Staged().double()
    names, known = list(whole.state_dict()), {id(parameter) for parameter in whole.parameters()}
    growing, (x, _) = halves(whole), data()
    assert growing.idle == ("stages.1", "stages.3")
    assert {id(parameter) for parameter in growing.parameters()} == known
    assert growing.get_submodule("stages.1.fc1") is whole.get_submodule("stages.1.fc1")
    growing.advance()
    assert [name for name in growing.state_dict() if not name.startswith("fxgrow_")] == names
    copied = copy.deepcopy(growing)
    assert torch.equal(whole(x), growing(x))
    assert torch.equal(copied(x), growing(x))


class Reshaping(nn.Module):
    """Two steps, the second on tokens in one row, as in timm's Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, rows, columns, width = x.shape
        x = x + self.first(x)
        x = x.reshape(count, -1, width)
        x = x + self.second(x)
        return x.reshape(count, rows, columns, width)


def test_blocks_that_reshape_the_stream_between_their_steps_stand_in_one_row() -> None:
    whole = nn.Sequential(*[Reshaping() for _ in range(4)], nn.Flatten()).double()
    x = torch.linspace(-1, 1, 48, dtype=torch.float64).sin().reshape(2, 2, 3, 4)
    growing = Progressive(whole, x, depth=0.5)
    assert growing.idle == ("1", "3")
    assert torch.equal(growing(x), whole[4](whole[2](whole[0](x))))
    growing.advance()
    assert torch.equal(growing(x), whole(x))


def test_any_set_of_blocks_may_run() -> None:
    whole = model(5)
    growing, (x, _) = Progressive(whole, data()[0], stages=[Stage(depth=("blocks.1", "blocks.4"))]), data()
    assert torch.equal(growing(x), whole.head(whole.blocks[4](whole.blocks[1](whole.stem(x)))))
    assert growing.advance().woken == {"blocks.1": ["blocks.0", "blocks.2", "blocks.3"]}


def test_gradients_of_a_stage_are_those_of_its_blocks() -> None:
    growing, (x, target) = halves(model()), data()
    F.cross_entropy(growing(x), target).backward()
    alone = model(2)
    alone.load_state_dict(
        {name.replace("blocks.2", "blocks.1"): value for name, value in growing.model.state_dict().items()
         if "blocks.1" not in name and "blocks.3" not in name}
    )  # fmt: skip
    F.cross_entropy(alone(x), target).backward()
    for name, parameter in alone.named_parameters():
        gradient = growing.get_parameter(name.replace("blocks.1", "blocks.2")).grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-14)


def test_advances_are_due_when_the_schedule_says_so_and_once() -> None:
    growing = Progressive(model(), data()[0], depth=0.25, at=(2, 3))
    stages = []
    for step in range(5):
        if growing.due(step):
            growing.advance()
        stages.append(growing.stage)
    assert stages == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((1,), "is no schedule for 3 stages; give 2 times"),
        ((1, 2, 3), "is no schedule for 3 stages; give 2 times"),
        (5, r"\(5,\) is no schedule"),
        ("12", "are not all epochs or steps"),
        ((1, float("nan")), "are not all epochs or steps"),
        (Significance(0.1), "it measures scores, at which an advance does not look"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(at: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Progressive(model(), data()[0], depth=0.25, at=at)


def test_a_plateau_of_the_loss_ends_a_stage_also_where_the_run_goes_on_in_another_process() -> None:
    losses = [1.0, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7]

    def made() -> Progressive:
        return Progressive(model(), data()[0], depth=0.25, at=Plateau(patience=2))

    def advances(growing: Progressive, epochs: range) -> list[int]:
        return [epoch for epoch in epochs if growing.due(epoch, metric=losses[epoch]) and growing.advance()]

    assert advances(made(), range(8)) == [3, 6]
    first, second = made(), made()
    assert advances(first, range(3)) == []
    second.load_state_dict(first.state_dict())
    assert advances(second, range(3, 8)) == [3, 6]
    assert not second.due(9, metric=0.7)
    with pytest.raises(PlanError, match=r"none is given; call due\(now, metric=...\)"):
        made().due(0)


def test_newcomers_can_have_a_learning_rate_of_their_own_in_plain_groups() -> None:
    whole = model()
    growing = Progressive(whole, data()[0], depth=0.25)
    first, second, third = growing.parameters_by_stage()
    assert {id(p) for p in second} == {id(p) for p in whole.blocks[2].parameters()}
    assert {id(p) for p in third} == {id(p) for i in (1, 3) for p in whole.blocks[i].parameters()}
    assert {id(p) for p in (*first, *second, *third)} == {id(p) for p in whole.parameters()}
    rates = (1e-2, 3e-2, 3e-2)
    groups = [{"params": own, "lr": rate} for own, rate in zip((first, second, third), rates, strict=True)]
    growing.advance()
    before = copy.deepcopy(whole)
    train(growing, torch.optim.SGD(groups), 1)
    moved = whole.blocks[2].fc2.weight - before.blocks[2].fc2.weight
    gradient = whole.blocks[2].fc2.weight.grad
    torch.testing.assert_close(moved, -3e-2 * gradient, rtol=1e-9, atol=1e-12)


def test_gradients_of_an_earlier_training_do_not_move_what_is_idle() -> None:
    whole, (x, _) = model(), data()
    whole(x).sum().backward()
    growing = halves(whole)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=0.1, weight_decay=0.5)
    start, known = copy.deepcopy(growing.state_dict()), copy.deepcopy(optimizer.state_dict())

    def idle_stays() -> bool:
        before = whole.blocks[1].fc1.weight.clone()
        for _ in range(2):
            optimizer.zero_grad(set_to_none=False)
            growing(x).sum().backward()
            optimizer.step()
        return torch.equal(before, whole.blocks[1].fc1.weight)

    assert idle_stays()
    growing.advance()
    assert not idle_stays()
    growing.load_state_dict(start)  # back in the first stage
    optimizer.load_state_dict(known)
    assert idle_stays()


def test_an_advance_leaves_no_gradients_of_other_weights() -> None:
    whole, (x, _) = model(), data()
    growing = halves(whole)
    growing(x).sum().backward()
    growing.advance()
    assert {name.partition(".")[0] for name, p in whole.named_parameters() if p.grad is not None} == {"stem", "head"}


def test_a_history_of_all_parameters_begins_anew() -> None:
    growing, (x, y) = halves(model()), data()
    optimizer = torch.optim.LBFGS(growing.parameters(), lr=0.1, max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(growing(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.state
    growing.advance()
    assert not optimizer.state


def test_torch_compile_of_the_whole_follows_each_advance_and_compiles_once_a_stage() -> None:
    torch._dynamo.reset()
    growing, (x, _) = halves(model()), data()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(growing, backend=backend)
    for stage in range(2):
        for _ in range(3):
            torch.testing.assert_close(compiled(x), growing(x))
        assert len(graphs) == stage + 1
        if not stage:
            growing.advance()
    assert growing.samples == [2 * 3 * len(x)] * 2
