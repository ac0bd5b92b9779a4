"""State by name goes into an optimizer whose groups are others."""

import pytest
import torch
from torch import nn, optim

from fxgrow.errors import PlanError
from fxgrow.optimizers import load_state_by_name, state_by_name


def test_state_goes_over_into_other_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    vectors, matrices = ([p for p in model.parameters() if (p.dim() > 1) is matrix] for matrix in (False, True))
    other = optim.AdamW([{"params": vectors, "weight_decay": 0.0}, {"params": matrices[::-1]}], lr=0.5)
    load_state_by_name(other, model, state_by_name(optimizer, model))
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][key], value)
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.5]


def test_a_parameter_without_state_starts_anew() -> None:
    model = nn.Linear(3, 4)
    optimizer = optim.AdamW(model.parameters())
    assert state_by_name(optimizer, model) == {}
    load_state_by_name(optimizer, model, {"weight": {"step": torch.tensor(2.0), "exp_avg": torch.ones(4, 3)}})
    assert list(state_by_name(optimizer, model)) == ["weight"]


def test_the_names_are_those_of_the_model_inside_its_wrappers() -> None:
    model = nn.Linear(3, 4)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert list(state_by_name(optimizer, torch.compile(model))) == ["weight", "bias"]


def test_state_of_a_parameter_that_is_not_held_is_refused() -> None:
    model = nn.Linear(3, 4)
    optimizer = optim.SGD([model.weight], lr=0.1)
    with pytest.raises(
        PlanError, match=r"bias: the optimizer does not hold this parameter; make it with all parameters"
    ):
        load_state_by_name(optimizer, model, {"bias": {}})
