"""What optimizers keep for a parameter that is new, replaced, or changes its meaning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from fxgrow.errors import PlanError
from fxgrow.optimizers.state import inherited_state, initial_state
from fxgrow.record.lineage import Lineage, scaled


def stepped(make: Callable[[Any], optim.Optimizer], *gradients: Tensor) -> tuple[optim.Optimizer, nn.Parameter]:
    """Return an optimizer that made a step for each gradient, and its parameter."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return optimizer, parameter


def halved(make: Callable[[Any], optim.Optimizer]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state inherited by a parameter with half the gradients, and what a run with those has made."""
    gradients = [torch.tensor([[1.0, -2.0, 4.0], [0.5, 3.0, -1.0]]), torch.tensor([[2.0, 1.0, -1.0], [1.0, -3.0, 2.0]])]
    optimizer, parameter = stepped(make, *gradients)
    reference, other = stepped(make, *(gradient / 2 for gradient in gradients))
    lineage = Lineage(("weight",), scaled(0.5))
    found = inherited_state(optimizer, optimizer.param_groups[0], parameter, lineage, [optimizer.state[parameter]])
    assert found is not None
    return found, reference.state[other]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adadelta(p, eps=1e-30),
        lambda p: optim.Adafactor(p),
        lambda p: optim.Adagrad(p, initial_accumulator_value=0.5),
        lambda p: optim.Adam(p, amsgrad=True),
        lambda p: optim.Adamax(p, eps=1e-30),
        lambda p: optim.NAdam(p),
        lambda p: optim.RAdam(p),
        lambda p: optim.RMSprop(p, momentum=0.9, centered=True, eps=1e-30),
        lambda p: optim.Rprop(p),
        lambda p: optim.SGD(p, momentum=0.9),
        lambda p: optim.Muon(p),
    ],
)
def test_the_state_for_half_the_gradient_is_that_of_a_run_with_half_the_gradients(
    make: Callable[[Any], optim.Optimizer],
) -> None:
    """Exactly so where nothing else than the gradient enters the state: weight decay and epsilon are out of the way."""
    found, expected = halved(make)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=0)


def test_an_average_over_the_values_of_a_parameter_begins_anew() -> None:
    optimizer, parameter = stepped(lambda p: optim.ASGD(p, lr=0.1, t0=0), *[torch.ones(2)] * 3)
    state = optimizer.state[parameter]
    assert not torch.equal(state["ax"], parameter)
    replaced = nn.Parameter(torch.tensor([5.0, 6.0]))
    lineage = Lineage(("weight",), scaled(1.0))
    found = inherited_state(optimizer, optimizer.param_groups[0], replaced, lineage, [state])
    assert found is not None
    assert torch.equal(found["ax"], replaced)
    assert (found["step"], found["mu"]) == (state["step"], state["mu"])


def test_the_source_that_was_stepped_most_gives_the_numbers() -> None:
    optimizer, parameter = stepped(optim.NAdam, torch.ones(2), torch.ones(2))
    other, young = stepped(optim.NAdam, torch.ones(2))
    states = [other.state[young], optimizer.state[parameter]]
    lineage = Lineage(("a", "b"), lambda moments, order: moments[0] + moments[1])
    found = inherited_state(optimizer, optimizer.param_groups[0], parameter, lineage, states)
    assert found is not None
    assert (found["step"], found["mu_product"]) == (2, states[1]["mu_product"])


def test_a_source_that_made_no_step_leaves_nothing_to_inherit() -> None:
    optimizer, parameter = stepped(optim.AdamW, torch.ones(2))
    lineage = Lineage(("a", "b"), lambda moments, order: moments[0] + moments[1])
    assert inherited_state(optimizer, {}, parameter, lineage, [optimizer.state[parameter], {}]) is None


def test_state_that_nobody_knows_is_refused() -> None:
    optimizer, parameter = stepped(optim.AdamW, torch.ones(2))
    optimizer.state[parameter]["curvature"] = torch.ones(2)
    group, lineage, states = optimizer.param_groups[0], Lineage(("weight",), scaled(1.0)), [optimizer.state[parameter]]
    with pytest.raises(PlanError, match=r"weight: the optimizer keeps 'curvature', which cannot be carried over"):
        inherited_state(optimizer, group, parameter, lineage, states)


def test_adagrad_has_its_state_from_the_start() -> None:
    optimizer = optim.Adagrad([nn.Parameter(torch.zeros(1))], initial_accumulator_value=0.3)
    state = initial_state(optimizer, optimizer.param_groups[0], nn.Parameter(torch.zeros(2, 2)))
    assert state["step"] == 0
    torch.testing.assert_close(state["sum"], torch.full((2, 2), 0.3))


@pytest.mark.parametrize(("steps", "keys"), [(0, set()), (1, {"momentum_buffer"})])
def test_the_fused_momentum_is_there_for_all_parameters_or_for_none(steps: int, keys: set[str]) -> None:
    optimizer, _ = stepped(lambda p: optim.SGD(p, 0.1, momentum=0.9, fused=True), torch.ones(2))
    if not steps:
        optimizer.state.clear()
    state = initial_state(optimizer, optimizer.param_groups[0], nn.Parameter(torch.zeros(3)))
    assert state.keys() == keys
    assert not any(value.any() for value in state.values())


def test_other_optimizers_make_the_state_themselves() -> None:
    optimizer, _ = stepped(optim.AdamW, torch.ones(2))
    assert initial_state(optimizer, optimizer.param_groups[0], nn.Parameter(torch.zeros(3))) == {}
