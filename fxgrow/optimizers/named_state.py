"""The state of an optimizer by the names of parameters: a checkpoint that does not depend on groups and their order."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.optimizers.transaction import stepping
from fxgrow.primitives.unwrapping import bare

_HELD = {"params", "param_names"}


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of the groups of an optimizer, as learning rates, without their parameters."""
    return [{key: value for key, value in group.items() if key not in _HELD} for group in optimizer.param_groups]


def state_by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what an optimizer keeps for each parameter of a model, by the parameter's name.

    The tensors are the optimizer's own. The options of groups, as learning rates, are not among it.
    """
    held = stepping(optimizer).state
    return {name: dict(held[parameter]) for name, parameter in bare(model).named_parameters() if parameter in held}


def load_state_by_name(
    optimizer: Optimizer,
    model: nn.Module,
    states: Mapping[str, Mapping[str, Any]],
    options: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Give an optimizer the state that `state_by_name` returned, whatever its groups are.

    Args:
        optimizer: The optimizer, newly made.
        model: The model whose parameters it holds.
        states: State by name; parameters without any start anew.
        options: What `options_of` returned, for an optimizer of the same groups; its options stay as they are without.

    Raises:
        PlanError: If the optimizer does not hold a parameter that has state, or has other groups.
    """
    names = {id(parameter): name for name, parameter in bare(model).named_parameters()}
    held = [names.get(id(parameter), "") for group in optimizer.param_groups for parameter in group["params"]]
    for name in states.keys() - set(held):
        raise PlanError("the optimizer does not hold this parameter", where=name, fix="make it with all parameters")
    document = optimizer.state_dict()
    if options is not None and len(options) != len(document["param_groups"]):
        what = f"it has {len(document['param_groups'])} parameter groups, and {len(options)} were saved"
        raise PlanError(what, where=type(optimizer).__name__, fix="make it as it was made for the run")
    for group, saved in zip(document["param_groups"], options or (), strict=False):
        group.update(saved)
    document["state"] = {place: dict(states[name]) for place, name in enumerate(held) if name and name in states}
    optimizer.load_state_dict(document)
