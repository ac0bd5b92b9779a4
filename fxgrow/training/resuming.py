"""The state of a run as one dict that ``torch.load(weights_only=True)`` takes, and back."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torch.fx as fx
from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.execution.randomness import load_random_state_dict, random_state_dict
from fxgrow.optimizers import Optimizers, as_given, load_state_by_name, options_of, state_by_name
from fxgrow.training.growing import Growing
from fxgrow.training.schedule import Schedule
from fxgrow.training.young import Young


@runtime_checkable
class Stateful(Protocol):
    """What torch's convention gives a state: schedulers, averages, a GradScaler, a loader that knows its place."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from a state."""


class Resumable:
    """What a run holds beside its data, as a state and back: the half of `fxgrow.Grower` that resumes."""

    model: Growing
    optimizer: Optimizers
    schedule: Schedule
    steps: int
    position: dict[str, Any]
    _young: Young
    _schedulers: tuple[Stateful, ...]
    _also: dict[str, Stateful | torch.Generator]

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph, which is one object for the whole run: what to save with `fxgrow.save`."""
        return self.model.graph_module

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run: all that a fresh process needs to go on bit for bit.

        It holds tensors and plain values, so that ``torch.load(weights_only=True)`` takes it. As ever with torch, the
        tensors are those of the run and not copies.
        """
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer_state(one, self.graph_module) for one in as_given(self.optimizer)],
            "parts": states_of(self._parts()),
            **self.progress(),
            "random": random_state_dict(),
        }

    def progress(self) -> dict[str, Any]:
        """Return the part of the state that nobody else has, for a trainer that writes model and optimizer itself."""
        return {
            "schedule": self.schedule.state_dict(),
            "young": self._young.state_dict(),
            "steps": self.steps,
            "position": dict(self.position),
        }

    def load_progress(self, state: Mapping[str, Any]) -> None:
        """Go on from what `progress` returned, or from a whole state."""
        self.schedule.load_state_dict(state["schedule"])
        self._young.load_state_dict(state["young"])
        self.steps, self.position = state["steps"], dict(state["position"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, in a Grower that was constructed as that of the run was.

        Raises:
            TraceError: If the model is another one than that of the run.
            PlanError: If an optimizer, or another part of the run, is another one.
        """
        optimizers = as_given(self.optimizer)
        if len(state["optimizers"]) != len(optimizers):
            what = f"the run had {len(state['optimizers'])} optimizers, and this one has {len(optimizers)}"
            raise PlanError(what, where="the state", fix="construct the Grower with all that the run had")
        self.model.load_state_dict(state["model"])
        for one, saved in zip(optimizers, state["optimizers"], strict=True):
            load_optimizer_state(one, self.graph_module, saved)
        load_states(self._parts(), state["parts"])
        self.load_progress(state)
        load_random_state_dict(state["random"])

    def _parts(self) -> dict[str, Stateful | torch.Generator]:
        """Return all that has a state beside the model and its optimizers."""
        numbered = [("scheduler", self._schedulers), ("ema", self.model.averages)]
        return {**{f"{kind} {n}": part for kind, parts in numbered for n, part in enumerate(parts)}, **self._also}


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
