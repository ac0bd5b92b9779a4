"""The two ways in which a run's model grows, behind one door: neurons by `Grower`, waking blocks by `Progressive`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fxgrow.curvature import analyze
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.primitives.modules import parameter_count
from fxgrow.progressive import Advance, Progressive, Stage
from fxgrow.record.record import record_of, update_record
from fxgrow.runs.batches import Batches
from fxgrow.runs.making import (
    build_model,
    examples,
    growth_schedule,
    make_average,
    make_loss,
    make_optimizer,
    make_schedule,
    trace_model,
)
from fxgrow.runs.processes import data_parallel
from fxgrow.runs.settings import Growth, Settings
from fxgrow.training import CosineCycles, Grower, GrowthReport


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

    model: nn.Module  #: one object for the whole run
    runner: nn.Module  #: what a training step calls: the model, on several ranks in what lets them train it together
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
        """What is tested: the average of the weights, if there is one."""

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

    @property
    @abstractmethod
    def saved(self) -> fx.GraphModule:
        """What is written into a file at the end, with its history."""

    @abstractmethod
    def measure_scores(self) -> None:
        """Measure the scores of what is saved, unless it never grew; its file holds them."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer, schedule, average and data."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""

    def _probe(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training data to measure scores on."""
        return ((images.to(self.device), labels.to(self.device)) for images, labels in self.batches.probe())

    def _make_trainers(self, model: nn.Module, trained: nn.Module) -> None:
        """Make optimizer, schedule and average of what is trained, which has the parameters of `model`."""
        self.optimizer = make_optimizer(self.settings, model, trained)
        self.scheduler = make_schedule(self.settings, self.optimizer, self.settings.epochs * self.batches.steps)
        self.average = make_average(self.settings, trained)


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
            wrap=data_parallel(),
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
        self.model = self.runner = self.grower.model

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

    @property
    def saved(self) -> fx.GraphModule:
        """What is tested: its history is that of the `Grower`."""
        return self.tested

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

    def measure_scores(self) -> None:
        """Measure them once more at the end, of the sites that may grow; a model that never grows has none."""
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

    def state_dict(self) -> dict[str, Any]:
        """Return what the `Grower` holds."""
        return self.grower.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what the `Grower` held."""
        with preserved_randomness():
            self.grower.load_state_dict(state)


class WakingBlocks(GrowingModel):
    """A model of which a part runs at first, by `Progressive`."""

    model: Progressive

    def __init__(self, settings: Settings, batches: Batches, device: torch.device) -> None:
        super().__init__(settings, batches, device)
        assert settings.stages is not None  # the caller chooses by it
        stages, steps = settings.stages, settings.epochs * batches.steps
        widths = stages.width or (1.0,) * len(stages.depth)
        built = build_model(settings)
        self.times = [round(time * steps) for time in stages.times]  #: the steps before which it advances
        self.model = Progressive(
            built,
            examples(batches.image_shape),
            stages=[Stage(depth, width) for depth, width in zip(stages.depth, widths, strict=True)],
            at=self.times,
        ).to(device)
        self._make_trainers(built, self.model)
        if settings.compile:
            self.model.compile(**settings.compile_options)
        wrap = data_parallel(some_idle=True)
        self.runner = self.model if wrap is None else wrap(self.model)

    @property
    def graph_module(self) -> fx.GraphModule:
        """The part that runs."""
        return self.model.graph_module

    @property
    def tested(self) -> fx.GraphModule:
        """The part that runs, or its average."""
        return self._averaged.graph_module

    @property
    def _averaged(self) -> Progressive:
        return self.model if self.average is None else cast(Progressive, self.average.module)

    @property
    def parameters(self) -> int:
        """How many parameters run."""
        return self.model.costs().stages[self.model.stage].parameters

    def due(self, step: int) -> bool:
        """Say whether an advance comes before this step."""
        return self.model.due(step)

    def grow(self, step: int) -> RunEvent:
        """Enter the next stage; no data are read."""
        before, advance = self.parameters, self.model.advance(self.optimizer)
        planned, place = len(self.model.stages) - 1, divmod(step, self.batches.steps)
        return RunEvent(advance.stage, planned, *place, before, self.parameters, advance)

    def measure_scores(self) -> None:
        """Measure eigen-scores: blocks wake by a schedule, and the scores say where more would help, if anywhere."""
        loss, samples = make_loss(self.settings), Growth().samples
        analyze(self.saved, loss, self._probe(), max_samples=samples, seed=self.settings.seed)

    @property
    def saved(self) -> fx.GraphModule:
        """All of the model, or of its average, with what woke and when as its history."""
        found, steps = self._averaged.traced, self.batches.steps
        epochs = (round(at / steps, 2) if at % steps else int(at // steps) for at in self.times)
        events = zip(record_of(found).history, epochs, strict=False)
        update_record(found, history=tuple(replace(event, context={"epoch": epoch}) for event, epoch in events))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts; parameters stay the same objects, so that torch's own will do."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the states of all parts; the stage comes with the model's."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the model as it was given, or of its average, on the CPU."""
        return {name: value.cpu() for name, value in self._averaged.model.state_dict().items()}

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "batches": self.batches}
        return parts if self.average is None else {**parts, "average": self.average}


def make_growing(settings: Settings, batches: Batches, device: torch.device) -> GrowingModel:
    """Build the model of a run, and what trains it."""
    return (WakingBlocks if settings.stages else GrowingNeurons)(settings, batches, device)
