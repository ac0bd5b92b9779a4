"""The state of an optimizer by the names of parameters: a checkpoint that does not depend on groups and their order."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.primitives.unwrapping import bare


def state_by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what an optimizer keeps for each parameter of a model, by the parameter's name.

    The tensors are the optimizer's own. The options of groups, as learning rates, are not among it.
    """
    return {
        name: dict(optimizer.state[parameter])
        for name, parameter in bare(model).named_parameters()
        if parameter in optimizer.state
    }


def load_state_by_name(optimizer: Optimizer, model: nn.Module, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an optimizer the state that `state_by_name` returned, whatever its groups are.

    Args:
        optimizer: The optimizer, newly made.
        model: The model whose parameters it holds.
        states: State by name; parameters without any start anew.

    Raises:
        PlanError: If the optimizer does not hold a parameter that has state.
    """
    names = {id(parameter): name for name, parameter in bare(model).named_parameters()}
    held = [names.get(id(parameter), "") for group in optimizer.param_groups for parameter in group["params"]]
    for name in states.keys() - set(held):
        raise PlanError("the optimizer does not hold this parameter", where=name, fix="make it with all parameters")
    document = optimizer.state_dict()
    document["state"] = {place: dict(states[name]) for place, name in enumerate(held) if name and name in states}
    optimizer.load_state_dict(document)
