"""What optimizers do to the parts that run, wake and wait."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fxgrow.progressive import Progressive
from tests.progressive.conftest import data, halves, model, train


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
