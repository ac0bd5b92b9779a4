"""Another way that a model can go: each residual block becomes two steps, a silent one behind it, or two half-steps."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.fx as fx
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError, VerificationError
from fxgrow.graph.blocks import find_blocks, runs
from fxgrow.passes.block_copies import parameters_within
from fxgrow.progressive.parts import find_parts
from model_census.building import SEED, Built, build, loss_of, targets, versions
from model_census.doors import EXPORT, traced_through
from model_census.stages import CensusError, Subject, built_of, traced_of


def build_model(subject: Subject) -> None:
    """Build the model and its inputs."""
    subject.built = build(subject.candidate)
    subject.facts["versions"] = versions(subject.candidate)


def find(subject: Subject) -> None:
    """Trace the model and find its residual blocks: how many of a kind stand in a row, and why others are refused."""
    built = built_of(subject)
    subject.traced, subject.facts["door"] = traced_through(built)
    blocks = find_blocks(subject.traced)
    subject.facts.update(
        blocks=len(blocks),
        rows=[len(run) for run in runs(blocks)],
        refused=_counted(block.refusal for block in blocks if block.refusal),
        can_wait=len(find_parts(subject.traced).parts),
    )


def add_silent_copies(subject: Subject) -> None:
    """Put a silent copy behind the first block of each row: outputs, gradients and buffers stay equal, in both modes.

    Where a block draws random numbers those behind its copy draw others, so that eval mode alone is compared. In
    float64, in which not every model runs, outputs are compared once more.
    """
    traced, deeper, built = traced_of(subject), _deepened(subject, "zero"), built_of(subject)
    if deeper is None:
        return
    own = (len(next(iter(_tensors(built.inputs)))),)
    fxgrow.verify(traced, deeper, built.inputs, modes=("eval",), batch_sizes=own)
    subject.facts["compared_in"] = "eval"
    if subject.facts["door"] != EXPORT and _same_in_training(traced, built):
        fxgrow.verify(traced, deeper, built.inputs, modes=("train",), batch_sizes=own)
        subject.facts["compared_in"] = "eval, train"
    subject.facts["float64"] = _equal_in_float64(traced, deeper, built)
    for module in (traced, deeper):
        module.float()


def add_half_steps(subject: Subject) -> None:
    """Turn the first block of each row into two half-steps: they run, and all parameters of both have a gradient."""
    traced, deeper, built = traced_of(subject), _deepened(subject, "half"), built_of(subject)
    if deeper is None:
        return
    torch.manual_seed(SEED)
    loss_of(built.call(deeper.eval()), targets(subject.candidate)).backward()
    gradients = {name: parameter.grad for name, parameter in deeper.named_parameters()}
    known = dict(traced.named_parameters())
    silent = [name for name in gradients if name not in known and gradients[name] is None]
    broken = [name for name, value in gradients.items() if value is not None and not bool(value.isfinite().all())]
    if silent or broken:
        raise CensusError(f"no finite gradient for {', '.join((silent + broken)[:3])}")
    halved = {path for path in subject.facts["half"] if subject.facts["half"][path] == ""}
    if not parameters_within(deeper, *halved):
        raise CensusError("no block was halved")


#: As in `model_census.stages`.
STAGES: dict[str, Callable[[Subject], None]] = {
    "built": build_model,
    "found": find,
    "silent copies": add_silent_copies,
    "half-steps": add_half_steps,
}
LATER: dict[str, Callable[[Subject], None]] = {}
ALL_STAGES = (*STAGES, *LATER)


def _deepened(subject: Subject, how: Literal["half", "zero"]) -> fx.GraphModule | None:
    """Deepen the first block of each row, and note in the facts why one is refused; None where all are."""
    traced = traced_of(subject)
    deeper, said = traced, dict[str, str]()
    for run in runs(find_blocks(traced)):
        try:
            deeper = fxgrow.deepen(deeper, run[0].path, how=how)
            said[run[0].path] = ""
        except PassError as error:
            said[run[0].path] = error.what
    subject.facts[how] = said
    return None if deeper is traced else deeper


def _same_in_training(traced: nn.Module, built: Built) -> bool:
    """Say whether the model computes the same in training mode whatever the random numbers are."""
    try:
        fxgrow.verify(traced.train(), _Reseeded(traced), built.inputs, modes=("train",), gradients=False)
    except VerificationError:
        return False
    finally:
        traced.eval()
    return True


class _Reseeded(nn.Module):
    """A model that draws some random numbers first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        torch.rand(7)
        return self.model(*args, **kwargs)


def _equal_in_float64(traced: fx.GraphModule, deeper: fx.GraphModule, built: Built) -> str:
    traced.double()
    deeper.double()
    inputs = _doubled(built.inputs)
    try:
        with torch.no_grad():
            traced(**inputs) if isinstance(inputs, Mapping) else traced(inputs)
    except RuntimeError:
        return "the model does not run in it"
    own = (len(next(iter(_tensors(inputs)))),)
    fxgrow.verify(traced, deeper, inputs, modes=("eval",), batch_sizes=own, gradients=False)
    return "equal"


def _doubled(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _doubled(value) for name, value in inputs.items()}
    return inputs.double() if inputs.is_floating_point() else inputs


def _tensors(inputs: Any) -> Iterable[Tensor]:
    return inputs.values() if isinstance(inputs, Mapping) else (inputs,)


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons))
