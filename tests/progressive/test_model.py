"""A part of a model runs, and the rest wakes in place."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fxgrow.progressive import Progressive, Stage
from tests.progressive.conftest import Model, data, halves, model, train


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


def test_who_holds_the_model_alone_may_put_it_in_another_mode() -> None:
    whole = model()
    for block in whole.blocks:
        block.drop.p = 0.5
    growing, inputs = halves(whole), data()[0]
    whole.eval()
    assert torch.equal(growing(inputs), growing(inputs))
    assert not growing.training
    whole.train()
    assert not torch.equal(growing(inputs), growing(inputs))


def test_what_wraps_a_model_is_taken_off() -> None:
    whole = model()
    growing = halves(nn.DataParallel(whole))
    assert growing.model is whole
    assert growing.state_dict().keys() - whole.state_dict().keys() == {"fxgrow_stage"}


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


def test_advances_are_due_when_the_schedule_says_so_and_once() -> None:
    growing = Progressive(model(), data()[0], depth=0.25, at=(2, 3))
    stages = []
    for step in range(5):
        if growing.due(step):
            growing.advance()
        stages.append(growing.stage)
    assert stages == [0, 0, 1, 2, 2]
