"""What a run will do, before an hour is spent: a step is measured, the rest computed or extrapolated, and said so.

All of it takes half a minute on one core, for a DeiT-S too: nothing is compiled, the step has few images, and a large
model grows once.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.fx as fx
from rich import box
from rich.table import Table
from torch import Tensor

from fxgrow.curvature import analyze
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.graph.sharing import share
from fxgrow.growth import grow
from fxgrow.primitives.modules import parameter_count
from fxgrow.runs.growing import GrowingModel, GrowingNeurons, WakingBlocks
from fxgrow.runs.making import examples
from fxgrow.runs.run import Run

_STEPS = 5  #: of which the least counts, since other work only adds; fewer, where they take long
_SECONDS = 3.0  #: no further step is made behind so much time
_CPU_IMAGES, _CPU_FLOPS = 64, 3e10  #: of a step on a CPU at most; two images, where one has more FLOPs than that
_LARGE = 3_000_000  #: parameters from which on only the first event is carried out
_BYTES = 4  #: of a weight, a gradient, a number that an optimizer keeps


@dataclass(frozen=True)
class Phase:
    """A part of the training between two events."""

    step: int  #: its first, counted from 0
    steps: int
    parameters: int
    flops: int  #: of a forward pass for one image
    memory: int  #: bytes: weights, gradients, optimizer state, averages, and what a step keeps for its backward pass
    seconds: float  #: of a step; measured in the first phase, extrapolated by FLOPs in the others
    extrapolated: bool = False  #: whether sizes are those of the first event, as often as there were events


@dataclass(frozen=True)
class Forecast:
    """The phases of a run, and how a step was measured."""

    phases: tuple[Phase, ...]
    steps_an_epoch: int
    measured_images: int  #: of the batch with which the step was measured
    batch_size: int  #: of one process
    exact: bool  #: whether sizes do not depend on scores that nobody knows yet
    compiled: bool  #: whether the run's steps will be, unlike the one that was measured

    @property
    def seconds(self) -> float:
        """The time of all training steps."""
        return sum(phase.steps * phase.seconds for phase in self.phases)


def forecast(run: Run) -> Forecast:
    """Say what a run that was not trained yet will do. It is used up: some steps are made with it.

    Sizes are those of the graphs themselves: growth is carried out with made-up scores, within the budget of each
    event; stages are known. A large model grows once, and each later event is taken to be like the first. Memory is
    counted on the graphs too (activations for two images, times the batch), without what a backward pass needs for a
    moment. The time of an eager step is measured once, here, and scales with FLOPs.
    """
    batch_size, images = run.batches.share, _measured_images(run)
    with preserved_randomness(run.settings.seed):
        seconds = _measure(run, images) * batch_size / images
        looks = _looks(run)
    ends = [look.step for look in looks[1:]] + [run.steps]
    phases = [
        Phase(step=now.step, steps=end - now.step, parameters=now.parameters, flops=now.flops, memory=now.memory,
              seconds=seconds * now.flops / looks[0].flops, extrapolated=now.extrapolated)
        for now, end in zip(looks, ends, strict=True)
    ]  # fmt: skip
    exact = run.settings.growth is None or run.settings.growth.allocation == "even"
    return Forecast(tuple(phases), run.batches.steps, images, batch_size, exact, run.settings.compile)


@dataclass(frozen=True)
class _Moment:
    """A graph, from its first step on."""

    step: int
    graph: fx.GraphModule
    parameters: int  #: that compute
    held: int  #: and those that are idle besides


@dataclass(frozen=True)
class _Look:
    """What is seen of a graph."""

    step: int
    parameters: int
    flops: int
    memory: int
    extrapolated: bool = False

    def onwards(self, before: "_Look", step: int) -> "_Look":
        """Return what another event like the one from `before` to this makes."""
        return _Look(
            step,
            parameters=2 * self.parameters - before.parameters,
            flops=2 * self.flops - before.flops,
            memory=2 * self.memory - before.memory,
            extrapolated=True,
        )


def _looks(run: Run) -> list[_Look]:
    """Look at the graphs of a run; at those of a large model that grows by neurons, up to the first event."""
    growing = run.growing
    if not isinstance(growing, GrowingNeurons) or growing.parameters < _LARGE:
        return [_look(run, moment) for moment in _moments(growing)]
    looks = [_look(run, moment) for moment in itertools.islice(_moments(growing), 2)]
    for epoch in growing.at[1:]:
        looks.append(looks[-1].onwards(looks[-2], epoch * run.batches.steps))
    return looks


def _look(run: Run, moment: _Moment) -> _Look:
    trained, held = 1 + _state_share(run), 1 + bool(run.settings.ema)
    weights = int(_BYTES * (trained * moment.parameters + held * moment.held))
    memory = weights + _kept_bytes(run, moment.graph)
    return _Look(moment.step, moment.parameters, flops_per_sample(moment.graph), memory)


def _moments(growing: GrowingModel) -> Iterator[_Moment]:
    """Yield the graphs of a run one after the other; each is looked at before the next one is made."""
    if isinstance(growing, WakingBlocks):
        return _waking(growing)
    assert isinstance(growing, GrowingNeurons)  # there are two kinds
    return _growing(growing)


def _growing(growing: GrowingNeurons) -> Iterator[_Moment]:
    """Yield the graph at the start, and those that events make of it within the budget, with made-up scores."""
    graph, grower, chosen = growing.graph_module, growing.grower, growing.settings.growth
    size, rest = parameter_count(graph), grower.remaining
    yield _Moment(0, graph, size, size)
    if chosen is None:
        return
    example = examples(growing.batches.image_shape).to(growing.device)
    probe = [(example, torch.zeros(len(example), dtype=torch.int64, device=growing.device))]
    for done, epoch in enumerate(growing.at):
        graph = share(graph)
        graph = grow(
            graph,
            analyze(graph, grower.loss_fn, probe, score="uniform", sites=chosen.include or None),
            budget=rest // (len(growing.at) - done),
            operator=chosen.operator,
            allocation=chosen.allocation,
            include=chosen.include,
            exclude=chosen.exclude,
        )
        before, size = size, parameter_count(graph)
        rest -= size - before
        yield _Moment(epoch * growing.batches.steps, graph, size, size)


def _waking(growing: WakingBlocks) -> Iterator[_Moment]:
    """Yield the graph of each stage, by entering it."""
    held = parameter_count(growing.model)
    for start in (0, *growing.times):
        if start:
            growing.grow(int(start))
        yield _Moment(int(start), growing.graph_module, growing.parameters, held)


def _measured_images(run: Run) -> int:
    """Return how many images of a batch a step is measured with; an even number, for mixup."""
    if run.device.type != "cpu":
        return run.batches.share
    fitting = int(_CPU_FLOPS / (3 * run.growing.flops))  # a backward pass has twice the FLOPs
    return min(run.batches.share, _CPU_IMAGES, max(2, fitting - fitting % 2))


def _measure(run: Run, images: int) -> float:
    """Return the time of an eager training step of so many images on this process, in seconds."""
    batch = run.batches.some(images)
    found: list[float] = []
    run.growing.runner = run.growing.graph_module
    while len(found) <= _STEPS and sum(found) < _SECONDS:
        started = time.perf_counter()
        run.train_step(*batch)
        if run.device.type != "cpu":
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def _state_share(run: Run) -> float:
    """Return how many numbers the optimizer keeps for each parameter that it has stepped."""
    state = run.growing.optimizer.state
    kept = sum(value.numel() for one in state.values() for value in one.values() if isinstance(value, Tensor))
    return kept / max(1, sum(parameter.numel() for parameter in state))


def _kept_bytes(run: Run, graph: fx.GraphModule) -> int:
    """Return the bytes that a training step of the whole batch keeps from forward to backward pass."""
    inputs = examples(run.batches.image_shape).to(run.device)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*graph.parameters(), *graph.buffers()]}
    kept: dict[int, Tensor] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor)
    with preserved(graph), torch.enable_grad(), run.precision(), hooks:
        graph.train()(inputs)
    total = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)
    return total * run.batches.share // len(inputs)


def forecast_table(plan: Forecast) -> Table:
    """Return the phases as a table, in at most 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("before epoch", "parameters", "MFLOPs", "memory", "a step", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, phase in enumerate(plan.phases):
        epoch, step = divmod(phase.step, plan.steps_an_epoch)
        like = "~" if phase.extrapolated else ""
        table.add_row(
            f"{epoch + 1}" if not step else f"{epoch + 1} + {step} steps",
            f"{like}{phase.parameters:,}",
            f"{like}{_spell(phase.flops / 1e6)}",
            f"{like}{_spell(phase.memory / 2**30)} GiB",
            f"{'' if not index else '~'}{_spell_step(phase.seconds)}",
            f"~{spell_time(phase.steps * phase.seconds)}",
        )
    return table


def forecast_notes(plan: Forecast) -> Sequence[str]:
    """Say what of a forecast is measured, what computed, and what extrapolated."""
    whole = plan.measured_images == plan.batch_size
    scaled = "" if whole else f", of {plan.measured_images} images of {plan.batch_size}, scaled"
    sizes = "computed on grown graphs" if plan.exact else "computed as if scores were even"
    notes = [
        f"about {spell_time(plan.seconds)} of training steps; tests and growth events come on top",
        f"measured here: an eager step of the start{scaled}",
        "extrapolated by FLOPs: the times with ~",
        f"{sizes}: parameters, FLOPs of an image forward",
        "computed: memory of weights, gradients, optimizer, and what a step keeps",
    ]
    if plan.compiled:
        notes.insert(2, "the run compiles its steps, which takes minutes once and makes them shorter")
    if any(phase.extrapolated for phase in plan.phases):
        notes.append("extrapolated: the sizes with ~, as if each event were like the first")
    return notes


def _spell(number: float) -> str:
    """Spell a number with three digits or more."""
    return f"{number:.2f}" if number < 10 else f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def _spell_step(seconds: float) -> str:
    return f"{_spell(1e3 * seconds)} ms" if seconds < 10 else f"{_spell(seconds)} s"


def spell_time(seconds: float) -> str:
    """Spell a time in the unit that suits it.

    Example:
        >>> spell_time(4), spell_time(400), spell_time(40_000)
        ('4 s', '6.7 min', '11.1 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
