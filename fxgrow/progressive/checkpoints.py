"""What checkpoints say beside the weights: the stage, and what a schedule has seen."""

from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import PlanError
from fxgrow.graph.identity import attach_state

#: the entry of a state dict that holds the stage, and how many samples were trained on in each
STATE_KEY = "fxgrow_stage"
#: the entry that holds what a schedule has seen, where it watches something
SCHEDULE_KEY = "fxgrow_schedule"


def attach_progress(growing: nn.Module) -> None:
    """Let the state dict of a growing model say how far it has come; loading it brings it there."""
    attach_state(growing, STATE_KEY, _write_stage, _read_stage)
    attach_state(growing, SCHEDULE_KEY, _write_schedule, _read_schedule)


def _write_stage(growing: Any) -> Tensor:
    return torch.tensor([growing.stage, *growing.samples])


def _read_stage(growing: Any, said: Tensor) -> None:
    stage, *samples = _whole_numbers(said)
    if len(samples) != len(growing.stages) or not 0 <= stage < len(samples):
        what = f"the state dict is in stage {stage} of {len(samples)}, and the model has {len(growing.stages)} stages"
        raise PlanError(what, where=STATE_KEY, fix="construct it with the stages of the run that was saved")
    growing.stage, growing.samples = stage, samples
    growing._run_stage()


def _whole_numbers(said: Tensor) -> list[int]:
    if not isinstance(said, Tensor) or said.dim() != 1 or not len(said) or said.is_floating_point():
        what = f"{said!r} is no stage, and samples in each stage"
        raise PlanError(what, where=STATE_KEY, fix="load what `growing.state_dict()` returned")
    return [int(value) for value in said.tolist()]


def _write_schedule(growing: Any) -> Tensor | None:
    seen = growing.schedule.state_dict().values()
    return torch.tensor([float(value) for value in seen], dtype=torch.float64) if seen else None


def _read_schedule(growing: Any, said: Tensor) -> None:
    seen = growing.schedule.state_dict()
    pairs = zip(seen.items(), said.tolist(), strict=False)  # a model that was made without a schedule has seen nothing
    growing.schedule.load_state_dict({name: type(known)(value) for (name, known), value in pairs})


def rebuild(growing: type[nn.Module], model: nn.Module, inputs: Any, stages: Any, at: Any, state: Any) -> Any:
    """Return a growing model that was pickled, in its stage."""
    rebuilt: Any = growing(model, inputs, stages=stages, at=at)
    rebuilt.stage, rebuilt.samples = state
    rebuilt._run_stage()
    return rebuilt
