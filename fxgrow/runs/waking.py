"""The second way in which a run's model grows: blocks that wake, by `Progressive`."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx

from fxgrow.progressive import Progressive, Stage, with_history
from fxgrow.runs.batches import Batches
from fxgrow.runs.growing import GrowingModel, RunEvent
from fxgrow.runs.making import build_model, examples, origin_of
from fxgrow.runs.settings import Settings


class WakingBlocks(GrowingModel):
    """A model of which a part runs at first, by `Progressive`."""

    model: Progressive

    def __init__(self, settings: Settings, batches: Batches, device: torch.device) -> None:
        super().__init__(settings, batches, device)
        assert settings.stages is not None  # the caller chooses by it
        stages, steps = settings.stages, settings.epochs * batches.steps
        widths = stages.width or (1.0,) * len(stages.depth)
        built = build_model(settings)
        self.model = Progressive(
            built,
            examples(batches.image_shape),
            stages=[Stage(depth, width) for depth, width in zip(stages.depth, widths, strict=True)],
            at=[round(time * steps) for time in stages.times],
        ).to(device)
        self._make_trainers(built, self.model)
        if settings.compile:
            self.model.compile(**settings.compile_options)

    @property
    def graph_module(self) -> fx.GraphModule:
        """The part that runs."""
        return self.model.graph_module

    @property
    def tested(self) -> fx.GraphModule:
        """The part that runs, or its average."""
        return self._averaged.graph_module

    @property
    def parameters(self) -> int:
        """How many parameters run."""
        return self.model.costs().stages[self.model.stage].parameters

    def due(self, step: int) -> bool:
        """Say whether an advance comes before this step."""
        return self.model.due(step)

    def grow(self, step: int) -> RunEvent:
        """Enter the next stage; no data are read."""
        before = self.parameters
        advance = self.model.advance(self.optimizer)
        planned, place = len(self.model.stages) - 1, divmod(step, self.batches.steps)
        return RunEvent(advance.stage, planned, *place, before, self.parameters, advance)

    def finished(self) -> fx.GraphModule:
        """Return the whole model, traced as its file will be; its history says which blocks woke when."""
        epochs = [self._epoch(step) for step in self.model.at]
        return with_history(self._averaged, epochs=epochs, origin=origin_of(self.settings))

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

    def _epoch(self, step: float) -> float:
        """Return when a step is, in epochs: a whole number at the start of one."""
        whole, rest = divmod(step, self.batches.steps)
        return round(step / self.batches.steps, 2) if rest else int(whole)

    @property
    def _averaged(self) -> Progressive:
        averaged: Any = self.model if self.average is None else self.average.module
        found: Progressive = averaged
        return found

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "batches": self.batches}
        return parts if self.average is None else {**parts, "average": self.average}
