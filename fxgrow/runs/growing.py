"""The two ways in which a run's model grows, behind one door: neurons by `Grower`, waking blocks by `Progressive`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.curvature import analyze
from fxgrow.primitives.modules import parameter_count
from fxgrow.progressive import Advance, Progressive, Stage
from fxgrow.progressive.costs import flops_per_sample
from fxgrow.runs.making import build_model, build_traced, examples, make_loss, make_optimizer
from fxgrow.runs.settings import Growth, Settings
from fxgrow.training import Grower, GrowthReport
from fxgrow.training.schedule import growth_epochs

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Event:
    """One growth event of a run."""

    number: int  #: from 1
    planned: int  #: events of the whole run
    epoch: int  #: counted from 0
    step: int  #: of the epoch, before which the model grew
    parameters_before: int
    parameters_after: int
    report: GrowthReport | Advance


class Growing(Protocol):
    """A model that grows during a run, with its optimizer."""

    optimizer: torch.optim.Optimizer

    @property
    def model(self) -> nn.Module:
        """What a training step calls."""

    @property
    def graph_module(self) -> fx.GraphModule:
        """What is tested and saved: what `model` computes, not compiled."""

    @property
    def parameters(self) -> int:
        """How many parameters compute at the moment."""

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass for one image, two for a multiply-add."""

    def due(self, step: int) -> bool:
        """Say whether an event comes before this step, counted from 0."""

    def grow(self, step: int, probe: Batches) -> Event:
        """Let the event happen."""

    def measure(self, probe: Batches) -> None:
        """Measure the scores of the model as it is, so that its file says what became of them."""


class GrowingNeurons:
    """A traced model that grows by `Grower`; without a growth table it stays as it is."""

    def __init__(self, settings: Settings, shape: tuple[int, ...], steps: int, device: torch.device) -> None:
        traced = build_traced(settings, shape).to(device)
        self.optimizer = make_optimizer(settings, traced)
        chosen = self._growth = settings.growth or Growth()
        self._steps, self._seed = steps, settings.seed
        self.at = growth_schedule(settings)
        self._device = device
        self.grower = Grower(
            traced,
            make_loss(settings),
            self.optimizer,
            budget=chosen.budget,
            at=self.at,
            score=chosen.score,
            operator=chosen.operator,
            allocation=chosen.allocation,
            include=chosen.include,
            exclude=chosen.exclude,
            max_samples=chosen.samples,
            compile=settings.compile,
            compile_options=settings.compile_options,
            seed=settings.seed,
        )

    @property
    def model(self) -> nn.Module:
        """What a training step calls."""
        return self.grower.model

    @property
    def graph_module(self) -> fx.GraphModule:
        """What is tested and saved."""
        return self.grower.graph_module

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return parameter_count(self.graph_module)

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass for one image."""
        return flops_per_sample(self.graph_module)

    def due(self, step: int) -> bool:
        """Say whether an event comes before this step: at the start of an epoch of the schedule."""
        return step % self._steps == 0 and self.grower.due(step // self._steps)

    def grow(self, step: int, probe: Batches) -> Event:
        """Grow by the scores on the probe data."""
        epoch = step // self._steps
        report = self.grower.grow(self._moved(probe), context={"epoch": epoch})
        number = len(self.grower.history)
        event = report.event
        return Event(number, len(self.at), epoch, 0, event.parameters_before, event.parameters_after, report)

    def measure(self, probe: Batches) -> None:
        """Measure the scores once more, of the sites that may grow; a model that never grows has none."""
        if self.at:
            chosen = self._growth
            analyze(
                self.graph_module,
                self.grower.loss_fn,
                self._moved(probe),
                score=chosen.score,
                sites=chosen.include or None,
                max_samples=chosen.samples,
                seed=self._seed,
            )

    def _moved(self, probe: Batches) -> Iterable[tuple[Tensor, Tensor]]:
        return ((images.to(self._device), labels.to(self._device)) for images, labels in probe())


class WakingBlocks:
    """A model of which a part runs at first, by `Progressive`."""

    def __init__(self, settings: Settings, shape: tuple[int, ...], steps: int, device: torch.device) -> None:
        assert settings.stages is not None  # the caller chooses by it
        stages, self._steps = settings.stages, steps
        widths = stages.width or (1.0,) * len(stages.depth)
        self.progressive = Progressive(
            build_model(settings),
            examples(shape),
            stages=[Stage(depth, width) for depth, width in zip(stages.depth, widths, strict=True)],
            at=[round(time * steps * settings.epochs) for time in stages.times],
        ).to(device)
        self.optimizer = make_optimizer(settings, self.progressive)
        if settings.compile:
            self.progressive.compile(**settings.compile_options)

    @property
    def model(self) -> nn.Module:
        """What a training step calls."""
        return self.progressive

    @property
    def graph_module(self) -> fx.GraphModule:
        """What is tested: the part that runs."""
        return self.progressive.graph_module

    @property
    def parameters(self) -> int:
        """How many parameters run."""
        return self.progressive.costs().stages[self.progressive.stage].parameters

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass of what runs, for one image."""
        return flops_per_sample(self.graph_module)

    def due(self, step: int) -> bool:
        """Say whether an advance comes before this step."""
        return self.progressive.due(step)

    def grow(self, step: int, probe: Batches) -> Event:
        """Enter the next stage; no data are read."""
        before = self.parameters
        advance = self.progressive.advance(self.optimizer)
        planned = len(self.progressive.stages) - 1
        return Event(advance.stage, planned, *divmod(step, self._steps), before, self.parameters, advance)

    def measure(self, probe: Batches) -> None:
        """Do nothing: blocks wake by a schedule, and not by scores."""


def make_growing(settings: Settings, shape: tuple[int, ...], steps: int, device: torch.device) -> Growing:
    """Build the model of a run on images of a shape, with so many steps in an epoch."""
    kind: Any = WakingBlocks if settings.stages else GrowingNeurons
    made: Growing = kind(settings, shape, steps, device)
    return made


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
