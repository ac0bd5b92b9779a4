"""State dicts, copies and averages of a growing model."""

import copy
import pickle

import pytest
import torch

from fxgrow.errors import PlanError
from fxgrow.progressive import Progressive
from fxgrow.training import Plateau
from tests.progressive.conftest import Model, data, halves, model, train


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
