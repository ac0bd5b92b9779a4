"""The first way in which a run's model grows: neurons, by `Grower`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature import analyze
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.primitives.modules import parameter_count
from fxgrow.runs.batches import Batches
from fxgrow.runs.growing import GrowingModel, RunEvent
from fxgrow.runs.making import build_model, make_loss, trace_model
from fxgrow.runs.settings import Growth, Settings
from fxgrow.training import Grower, growth_epochs


class GrowingNeurons(GrowingModel):
    """A traced model that grows by `Grower`; without a growth table it stays as it is."""

    def __init__(self, settings: Settings, batches: Batches, device: torch.device) -> None:
        super().__init__(settings, batches, device)
        self.at = growth_schedule(settings)
        built = build_model(settings)
        traced = trace_model(settings, built, batches.image_shape).to(device)
        self._make_trainers(built, traced)
        chosen = settings.growth or Growth()
        self.grower = Grower(
            traced,
            make_loss(settings),
            self.optimizer,
            scheduler=self.scheduler,
            ema=self.average,
            also={"batches": batches},
            budget=chosen.budget,
            at=self.at,
            score=chosen.score,
            operator=chosen.operator,
            allocation=chosen.allocation,
            include=chosen.include,
            exclude=chosen.exclude,
            max_samples=chosen.samples,
            new_lr_factor=chosen.new_lr_factor,
            new_warmup=chosen.new_warmup,
            compile=settings.compile,
            compile_options=settings.compile_options,
            seed=settings.seed,
        )
        self.model = self.grower.model

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph, which is one object for the whole run."""
        return self.grower.graph_module

    @property
    def tested(self) -> fx.GraphModule:
        """The graph, or the average of its weights."""
        averaged: Any = self.graph_module if self.average is None else self.average.module
        found: fx.GraphModule = averaged
        return found

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return parameter_count(self.graph_module)

    def due(self, step: int) -> bool:
        """Say whether an event comes before this step: at the start of an epoch of the schedule."""
        return step % self.batches.steps == 0 and self.grower.due(step // self.batches.steps)

    def grow(self, step: int) -> RunEvent:
        """Grow by the scores on training data."""
        epoch = step // self.batches.steps
        report = self.grower.grow(self._probe(), context={"epoch": epoch})
        event = report.event
        number = len(self.grower.history)
        return RunEvent(number, len(self.at), epoch, 0, event.parameters_before, event.parameters_after, report)

    def finished(self) -> fx.GraphModule:
        """Return what is tested, scored once more where it may grow; a model that never grows has no scores."""
        chosen = self.settings.growth
        if chosen is not None:
            analyze(
                self.tested,
                self.grower.loss_fn,
                self._probe(),
                score=chosen.score,
                sites=chosen.include or None,
                max_samples=chosen.samples,
                seed=self.settings.seed,
            )
        return self.tested

    def _probe(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images.to(self.device), labels.to(self.device)) for images, labels in self.batches.probe())

    def state_dict(self) -> dict[str, Any]:
        """Return what the `Grower` holds."""
        return self.grower.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the `Grower` held."""
        with preserved_randomness():
            self.grower.load_state_dict(state)


def growth_schedule(settings: Settings) -> tuple[int, ...]:
    """Return the epochs before which neurons grow; none without a growth table.

    Raises:
        PlanError: If the events do not fit into the training.
    """
    growth = settings.growth
    if growth is None:
        return ()
    if growth.start is not None and growth.every is not None:
        return tuple(range(growth.start, settings.epochs, growth.every))
    return growth.at or growth_epochs(settings.epochs, growth.events)
