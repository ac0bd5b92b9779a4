"""A model that grows during a run: what the loop asks of it, whichever way it grows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxgrow.execution.shapes import flops_per_sample
from fxgrow.progressive import Advance
from fxgrow.runs.batches import Batches
from fxgrow.runs.making import make_average, make_optimizer, make_schedule
from fxgrow.runs.settings import Settings
from fxgrow.training import CosineCycles, GrowthReport


@dataclass(frozen=True)
class RunEvent:
    """One growth event of a run."""

    number: int  #: from 1
    planned: int  #: events of the whole run
    epoch: int  #: counted from 0
    step: int  #: of the epoch, before which the model grew
    parameters_before: int
    parameters_after: int
    report: GrowthReport | Advance


class GrowingModel(ABC):
    """A model that grows during a run, and what trains it.

    Args:
        settings: The run.
        batches: Its data.
        device: Where it trains.
    """

    model: nn.Module  #: what a training step calls, one object for the whole run
    optimizer: torch.optim.Optimizer
    scheduler: CosineCycles
    average: AveragedModel | None  #: of the weights

    def __init__(self, settings: Settings, batches: Batches, device: torch.device) -> None:
        self.settings, self.batches, self.device = settings, batches, device

    @property
    @abstractmethod
    def graph_module(self) -> fx.GraphModule:
        """What the model computes, not compiled."""

    @property
    @abstractmethod
    def tested(self) -> fx.GraphModule:
        """What is tested and saved: the average of the weights, if there is one."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many parameters compute at the moment."""

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass for one image, two for a multiply-add."""
        return flops_per_sample(self.graph_module)

    @abstractmethod
    def due(self, step: int) -> bool:
        """Say whether an event comes before this step, counted from 0."""

    @abstractmethod
    def grow(self, step: int) -> RunEvent:
        """Let the event happen."""

    @abstractmethod
    def finished(self) -> fx.GraphModule:
        """Return what is saved at the end, with its history, and with its scores where the run grows by scores."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer, schedule, average and data."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""

    def _make_trainers(self, model: nn.Module, trained: nn.Module) -> None:
        """Make optimizer, schedule and average of what is trained, which has the parameters of `model`."""
        self.optimizer = make_optimizer(self.settings, model, trained)
        self.scheduler = make_schedule(self.settings, self.optimizer, self.settings.epochs * self.batches.steps)
        self.average = make_average(self.settings, trained)
