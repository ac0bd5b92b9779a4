"""The state of a run as one dict that ``torch.load(weights_only=True)`` takes, and back."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.optimizers import load_state_by_name, options_of, state_by_name


class Stateful(Protocol):
    """What torch's convention gives a state: schedulers, averages, a GradScaler, a loader that knows its place."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from a state."""


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return the state of an optimizer by the names of parameters."""
    return {"groups": options_of(optimizer), "state": state_by_name(optimizer, model)}


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Go on from what `optimizer_state` returned.

    Raises:
        PlanError: If the optimizer has other groups, or does not hold a parameter that has state.
    """
    load_state_by_name(optimizer, model, state["state"], state["groups"])


def states_of(parts: Mapping[str, Stateful | torch.Generator]) -> dict[str, Any]:
    """Return the states of parts by name; that of a generator of random numbers is a tensor."""
    return {
        name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for name, part in parts.items()
    }


def load_states(parts: Mapping[str, Stateful | torch.Generator], states: Mapping[str, Any]) -> None:
    """Go on from what `states_of` returned.

    Raises:
        PlanError: If there are other parts than those that were saved.
    """
    if parts.keys() != states.keys():
        known, saved = ", ".join(sorted(parts)) or "none", ", ".join(sorted(states)) or "none"
        fix = "construct the Grower with all that the run had"
        raise PlanError(f"the run had {saved}, and this one has {known}", where="the state", fix=fix)
    for name, part in parts.items():
        part.set_state(states[name].cpu()) if isinstance(part, torch.Generator) else part.load_state_dict(states[name])
