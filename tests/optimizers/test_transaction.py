"""What changes an optimizer puts it back when it fails."""

import copy
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.optimizers import listed, unchanged_on_failure


def trained(kind: type[Optimizer], names: bool = False) -> tuple[Optimizer, list[nn.Parameter]]:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3, 3))]
    given: Any = [("a", parameters[0]), ("b", parameters[1])] if names else parameters
    optimizer = kind(given, lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(parameter.square().sum() for parameter in parameters)
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer, parameters


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Adagrad, optim.LBFGS])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_groups_names_and_state_come_back(kind: type[Optimizer], failure: type[BaseException]) -> None:
    optimizer, parameters = trained(kind, names=True)
    before, lists = copy.deepcopy(optimizer.state_dict()), optimizer.param_groups[0]["params"]
    added = nn.Parameter(torch.zeros(4))

    def change() -> None:
        optimizer.param_groups[0]["params"][:] = [added]
        optimizer.param_groups[0]["param_names"][:] = ["c"]
        optimizer.state.pop(parameters[0])
        optimizer.state[added] = {"step": 3}
        raise failure

    with pytest.raises(failure), unchanged_on_failure(optimizer):
        change()
    assert optimizer.param_groups[0]["params"] is lists
    assert [id(parameter) for parameter in lists] == [id(parameter) for parameter in parameters]
    assert repr(optimizer.state_dict()) == repr(before)


def test_what_ends_well_stays_changed() -> None:
    optimizer, parameters = trained(optim.AdamW)
    with unchanged_on_failure(optimizer):
        optimizer.param_groups[0]["params"].pop()
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [id(parameters[0])]


def test_several_optimizers_come_back_together() -> None:
    (first, _), (second, _) = trained(optim.AdamW), trained(optim.Adagrad)

    def change() -> None:
        first.param_groups[0]["params"].clear()
        second.state.clear()
        raise RuntimeError

    with pytest.raises(RuntimeError), unchanged_on_failure((first, second)):
        change()
    assert len(first.param_groups[0]["params"]) == 2
    assert len(second.state) == 2


@pytest.mark.parametrize("given", [3, nn.Linear(2, 2), "adamw", [[]]])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(PlanError, match=r"it is no optimizer; give a torch.optim.Optimizer, or several in a tuple"):
        listed(given)
