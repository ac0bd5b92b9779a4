"""An optimizer goes on after parameters were replaced, or refuses and stays as it was."""

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import PlanError


def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2))
    return fxgrow.trace(model, torch.randn(2, 4))


def train(model: fx.GraphModule, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    ],
)
def test_training_goes_on_with_the_replaced_parameters(
    kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    before = traced()
    optimizer = kind(before.parameters(), lr=1e-3, **options)
    train(before, optimizer)
    after = fxgrow.widen(before, "0", by=2, how="split", optimizer=optimizer)
    assert {id(p) for p in after.parameters()} == {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter, state in optimizer.state.items():
        assert all(v.shape == parameter.shape for v in state.values() if isinstance(v, torch.Tensor) and v.dim())
    start = after.get_parameter("0.weight").detach().clone()
    train(after, optimizer)
    assert not torch.equal(after.get_parameter("0.weight"), start)


def test_groups_schedulers_and_names_stay_in_order() -> None:
    before = traced()
    named = list(before.named_parameters())
    weights, biases = ([(n, p) for n, p in named if p.dim() == size] for size in (2, 1))
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train(before, optimizer)
    after = fxgrow.widen(before, "2", by=2, optimizer=optimizer)
    train(after, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]
    for group in optimizer.param_groups:
        assert [id(after.get_parameter(name)) for name in group["param_names"]] == [id(p) for p in group["params"]]
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in weights]


def test_state_dicts_of_the_optimizer_load_into_one_built_anew() -> None:
    before = traced()
    optimizer = torch.optim.AdamW(before.parameters())
    train(before, optimizer)
    after = fxgrow.widen(before, "0", by=2, optimizer=optimizer)
    anew = torch.optim.AdamW(after.parameters())
    anew.load_state_dict(optimizer.state_dict())
    for parameter in after.parameters():
        assert torch.equal(anew.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_before_the_first_step_there_is_no_state_to_carry() -> None:
    before = traced()
    optimizer = torch.optim.AdamW(before.parameters())
    after = fxgrow.widen(before, "0", by=2, optimizer=optimizer)
    assert not optimizer.state
    train(after, optimizer)


def test_an_optimizer_of_another_model_is_refused_and_unchanged() -> None:
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    held = list(stranger.param_groups[0]["params"])
    with pytest.raises(PlanError, match=r"0\.weight: the optimizer does not hold this parameter"):
        fxgrow.widen(traced(), "0", by=2, optimizer=stranger)
    assert all(one is other for one, other in zip(held, stranger.param_groups[0]["params"], strict=True))


def test_state_of_an_unknown_kind_is_refused_and_unchanged() -> None:
    before = traced()
    optimizer = torch.optim.AdamW(before.parameters())
    train(before, optimizer)
    weight = before.get_parameter("0.weight")
    optimizer.state[weight]["curvature"] = torch.ones_like(weight)
    with pytest.raises(PlanError, match=r"0\.weight: the optimizer keeps 'curvature', which cannot be carried over"):
        fxgrow.widen(before, "0", by=2, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in before.parameters()]
