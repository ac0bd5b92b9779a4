"""What a stage costs, before it runs and after: parameters, FLOPs, and seconds as measured."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import PlanError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.preservation import preserved
from fxgrow.execution.structures import flatten
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.progressive.narrowing import Narrowed, Slices


@dataclass(frozen=True)
class StageCost:
    """What one stage costs."""

    depth: str
    width: float
    parameters: int  #: scalars that run
    flops: int  #: of a forward pass, for one sample
    seconds: float | None  #: of a forward and a backward pass over the inputs that were given; None if not measured
    samples: int  #: trained on in this stage so far


@dataclass(frozen=True)
class Costs:
    """What all stages cost; the last one is the whole model."""

    stages: tuple[StageCost, ...]

    @property
    def flops_saved(self) -> float:
        """The share of the FLOPs of the training so far that would have been needed in addition by the whole model."""
        return self._saved([float(stage.flops) for stage in self.stages])

    @property
    def seconds_saved(self) -> float | None:
        """The same share of the time, by the steps as measured; None if they were not."""
        seconds = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return self._saved(seconds) if len(seconds) == len(self.stages) else None

    def _saved(self, price: list[float]) -> float:
        samples = [stage.samples for stage in self.stages]
        whole = sum(samples) * price[-1]
        return 1 - sum(n * p for n, p in zip(samples, price, strict=True)) / whole if whole else 0.0

    def __str__(self) -> str:
        whole = self.stages[-1]
        lines = ["stage  depth  width  parameters         MFLOPs             ms a step        samples"]
        for index, stage in enumerate(self.stages):
            step = ""
            if stage.seconds is not None and whole.seconds:
                step = f"{1e3 * stage.seconds:9.1f} {stage.seconds / whole.seconds:6.1%}"
            lines.append(
                f"{index:>5}  {stage.depth:>5}  {stage.width:>5.3g}  {stage.parameters:>11,} "
                f"{stage.parameters / whole.parameters:6.1%}  {stage.flops / 1e6:>9,.1f} "
                f"{stage.flops / whole.flops if whole.flops else 1:6.1%}  {step:>16}  {stage.samples:>9,}"
            )
        if any(stage.samples for stage in self.stages):
            seconds = self.seconds_saved
            lines.append(f"saved so far: {self.flops_saved:.1%} of the whole model's FLOPs")
            lines[-1] += "" if seconds is None else f", {seconds:.1%} of its time"
        return "\n".join(lines)


def running_parameters(graph_module: fx.GraphModule, slices: Slices) -> int:
    """Return how many scalars of the parameters a graph computes with."""
    names: dict[int, tuple[str, nn.Parameter]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            module, path = graph_module.get_submodule(str(node.target)), str(node.target)
            if isinstance(module, Narrowed):
                module, path = module.inner, path.removesuffix("_narrow")
            for name, parameter in module.named_parameters():
                names[id(parameter)] = (f"{path}.{name}", parameter)
        elif node.op == "get_attr":
            value = fetch_attribute(graph_module, str(node.target))
            if isinstance(value, nn.Parameter):
                names[id(value)] = (str(node.target), value)
    return sum(_running_size(parameter, slices, name) for name, parameter in names.values())


def _running_size(parameter: nn.Parameter, slices: Slices, name: str) -> int:
    size = parameter.numel()
    for part in slices.get(name, ()):
        size = size * len(part.index) // parameter.shape[part.dim]
    return size


def measure(model: nn.Module, inputs: Inputs, repetitions: int) -> float:
    """Return the median time of a forward and a backward pass in training mode, in seconds; nothing moves.

    Raises:
        PlanError: If the model does not run on the inputs.
    """
    seconds = []
    with preserved(model), torch.enable_grad():
        model.train()
        for _ in range(repetitions + 1):  # the first one warms up, and compiles
            _wait()
            started = time.perf_counter()
            output = _run(model, inputs)
            sum(_total(value) for _, value in flatten(output) if value.requires_grad).backward()  # type: ignore[union-attr]
            _wait()
            seconds.append(time.perf_counter() - started)
            model.zero_grad(set_to_none=True)
    return statistics.median(seconds[1:])


def _run(model: nn.Module, inputs: Inputs) -> Any:
    try:
        return inputs.call(model)
    except Exception as error:
        what = f"the model does not run on the batch: {first_line(error)}"
        raise PlanError(what, where="costs", fix="give a batch as the model is trained on") from error


def _total(value: Tensor) -> Tensor:
    return value.float().square().mean()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
