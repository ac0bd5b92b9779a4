"""`Progressive`: a model of which a part runs first, and more of it later."""

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any, SupportsFloat

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.execution.structures import batch_size_of, resized
from fxgrow.graph.identity import become
from fxgrow.graph.sharing import share
from fxgrow.optimizers import listed
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import bare
from fxgrow.progressive.checkpoints import attach_progress, rebuild
from fxgrow.progressive.companions import averages_of, companions_of
from fxgrow.progressive.costs import Costs, StageCost, measure, running_parameters
from fxgrow.progressive.modes import follow_modes, move_buffers
from fxgrow.progressive.narrowing import IdleSlice, idle_slices, wake_units, width_slices
from fxgrow.progressive.parts import Part, find_parts
from fxgrow.progressive.signature import with_signature
from fxgrow.progressive.stages import Stage, check_schedule, distinct, make_stages, running_parts
from fxgrow.progressive.staging import stage_graph
from fxgrow.progressive.waking import Advance, event_of, learnt, touched_parameters, wake_parts, woken_from
from fxgrow.record.record import update_record
from fxgrow.tracing import trace
from fxgrow.training.compilation import compile as compile_blocks
from fxgrow.training.schedule import Times


class Progressive(nn.Module):
    """Your own model, of which a part runs at first: idle blocks wake as half-steps of their neighbours.

    All parameters are there from the first step to the last, and stay the same objects under the same names:

        growing = fxgrow.Progressive(model, images, depth=1 / 2)
        optimizer = torch.optim.AdamW(growing.parameters())
        ...
        growing.advance()  # at 40 % of the steps: the other half of the blocks wakes

    Idle parameters get no gradient (it is None), so that an optimizer neither decays them nor keeps moments of them.
    What wakes, and the blocks it starts from, begin with fresh moments in every optimizer that has stepped the
    parameters. In the last stage the model is the one that was given: ``model.state_dict()`` loads into its class.

    The state dict has one entry more than the model's (`fxgrow.progressive.checkpoints`); loading it brings the stage
    back. Copies that are updated as an average of the weights (EMA) advance along with their original.

    DistributedDataParallel needs ``find_unused_parameters=True`` as long as parameters are idle. Move the model by
    ``growing.to(device)``.

    Args:
        model: Any model that `fxgrow.trace` takes, with residual blocks that have others of their kind beside them; of
            one that is wrapped (``torch.compile``, data parallel) what is inside.
        example_inputs: As for `fxgrow.trace`.
        depth: The share of the blocks that runs in the first stage; each stage doubles it. Stages that would run the
            same as the next one are left out.
        width: The share of hidden units and heads that runs in the first stage; each stage doubles it.
        stages: The stages as data, in place of `depth` and `width`.
        at: When each advance is due (`due`), in whatever the training loop counts: steps or epochs; or a schedule of
            `fxgrow.training`, as ``Plateau(patience=3)`` of the loss.

    Raises:
        TraceError: If the model cannot be traced.
        PlanError: If no block can be left out, or the stages do not fit.
    """

    model: nn.Module
    _whole: fx.GraphModule
    _running: fx.GraphModule
    _runner: Callable[..., Any]

    @checks_arguments(PlanError, stages="a list of fxgrow.Stage, as stages=[Stage(depth=1 / 4), Stage(depth=1 / 2)]")
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        depth: float = 1.0,
        width: float = 1.0,
        stages: Iterable[Stage] | None = None,
        at: Times = (),
    ) -> None:
        super().__init__()
        model = bare(model)
        if isinstance(model, Progressive):
            raise PlanError("it grows by stages already", where="model", fix="give the model itself, and all stages")
        whole = trace(model, example_inputs)
        self.__dict__["model"] = model  # not a submodule, which would put its name before every parameter's
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.__dict__["_whole"] = whole
        self._parts = find_parts(whole)
        self._enter_stages(make_stages(depth, width, stages), given=stages is not None)
        self.schedule = check_schedule(at, self.stages)
        self.stage = 0  #: index of the present stage
        self.samples = [0] * len(self.stages)  #: samples trained on in each stage
        self._compile_options: dict[str, Any] | None = None
        self.__dict__["_running"] = share(self._whole)
        self.__dict__["_example_inputs"] = resized(example_inputs, 2)
        self.training = model.training
        self._run_stage()
        self.__class__ = with_signature(type(self), self._whole)
        attach_progress(self)

    def _enter_stages(self, stages: tuple[Stage, ...], *, given: bool) -> None:
        """Find what runs in each stage."""
        parts = running_parts(self._parts, stages)
        slices = tuple(width_slices(self._whole, stage.width) for stage in stages)
        places = distinct(stages, list(zip(parts, slices, strict=True)), given=given)
        self.stages = tuple(stages[place] for place in places)
        self._running_parts = tuple(parts[place] for place in places)
        self._slices = tuple(slices[place] for place in places)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the model may have a child of the same name, as ConvNeXt has `stages`."""
        if isinstance(value, Tensor | nn.Module):
            super().__setattr__(name, value)
        else:
            object.__setattr__(self, name, value)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module of the model by its path, also where an attribute of this class has its name."""
        return self.model.get_submodule(target) if target else self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the part of the model that runs computes, in the mode of the model."""
        if self.training is not self.model.training:
            self._follow_modes()
        if self.training:
            self._count(args, kwargs)
        return self._runner(*args, **kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _follow_modes(self) -> None:  # who holds the model may say `model.eval()`
        self.training = self.model.training
        follow_modes(self.model, (self._whole, self._running), training=self.training)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _count(self, args: Any, kwargs: Any) -> None:  # torch.compile would compile anew for each number of samples
        self.samples[self.stage] += batch_size_of((args, kwargs))

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph that runs: one object in all stages."""
        return self._running

    @property
    def traced(self) -> fx.GraphModule:
        """All of the model, as it was traced; it remembers what woke so far as its growth history."""
        sizes = [running_parameters(self._graph_of(index), self._slices[index]) for index in range(self.stage + 1)]
        pairs = enumerate(itertools.pairwise(sizes), start=1)
        events = [event_of(self._whole, self._woken(k), before=before, after=after) for k, (before, after) in pairs]
        update_record(self._whole, history=tuple(events))
        return self._whole

    def parameters_by_stage(self) -> list[list[nn.Parameter]]:
        """Return all parameters by the stage in which they begin to run, for groups with learning rates of their own.

        Of a width that grows, a parameter belongs to the stage in which its first part runs.
        """
        late = [learnt(self._whole, part) for part in self._parts.parts]
        entered = [min(k for k, run in enumerate(self._running_parts) if i in run) for i in range(len(late))]
        when = {id(p): stage for stage, own in zip(entered, late, strict=True) for p in own}
        return [[p for p in self.parameters() if when.get(id(p), 0) == k] for k in range(len(self.stages))]

    @property
    def idle(self) -> tuple[str, ...]:
        """The paths of the blocks that do not run in this stage."""
        running = self._running_parts[self.stage]
        return tuple(part.path for index, part in enumerate(self._parts.parts) if index not in running)

    @property
    def kept(self) -> dict[str, str]:
        """Why other residual blocks run in all stages, by their paths."""
        return self._parts.reasons

    @checks_arguments(PlanError)
    def due(self, now: float, *, metric: SupportsFloat | None = None) -> bool:
        """Say whether an advance is due and has not been made; after a resumed run too.

        Args:
            now: The present step or epoch.
            metric: What `Plateau` watches, as the mean loss since the last call: a number, or a tensor of one.

        Raises:
            PlanError: If one of them is no number, or the schedule watches a metric, and none is given.
        """
        if self.stage + 1 == len(self.stages):
            return False
        watched = None if metric is None else float(metric)
        return self.schedule.due(now, self.stage, watched, float)  # no schedule here asks for scores

    def advance(self, *optimizers: Optimizer) -> Advance:
        """Enter the next stage: idle blocks become half-steps of their neighbours, in place, and run.

        Args:
            optimizers: Optimizers to drop moments from that have not made a step yet; others are known.

        Raises:
            PlanError: If all of the model runs already, or something else than an optimizer is given.
        """
        given = listed(optimizers)
        if self.stage + 1 == len(self.stages):
            raise PlanError("all of the model runs already", where=f"stage {self.stage}", fix="go on training")
        widened = wake_units(self._whole, *self._slices[self.stage : self.stage + 2])
        woken = self._woken(self.stage + 1)
        wake_parts(self._whole, woken)
        touched = {id(p): p for p in [*widened, *touched_parameters(self._whole, woken)]}
        companions_of(self).watch.restart(touched.values(), given)
        self.stage += 1
        self._run_stage()
        for average in averages_of(self):
            if average.stage < self.stage:
                average.advance()
        named = {source.path: [part.path for part in started] for source, started in woken.items()}
        return Advance(self.stage, named, len(touched))

    @checks_arguments(PlanError)
    def costs(self, inputs: Any = None, *, repetitions: int = 0) -> Costs:
        """Return what each stage costs, and what was saved so far; printed, it is a table.

        Args:
            inputs: A batch to measure the time of a step with, as for the model; the example inputs if left out.
            repetitions: How often a step of each stage is measured; 0 to measure none.

        Raises:
            PlanError: If it is no number of repetitions, or the model does not run on the batch.
        """
        if repetitions < 0:
            raise PlanError("it is negative", where=f"repetitions {repetitions}", fix="0 measures nothing")
        batch = Inputs.of(self._whole, self._example_inputs if inputs is None else inputs)
        return Costs(tuple(self._cost_of(index, batch, repetitions) for index in range(len(self.stages))))

    def _cost_of(self, index: int, batch: Inputs, repetitions: int) -> StageCost:
        stage, staged, options = self.stages[index], self._graph_of(index), self._compile_options
        runner = staged if options is None or not repetitions else compile_blocks(staged, **options)
        depth = f"{stage.depth:.3g}" if isinstance(stage.depth, float | int) else f"{len(self._running_parts[index])}"
        parameters, flops = running_parameters(staged, self._slices[index]), flops_per_sample(staged)
        seconds = measure(runner, batch, repetitions) if repetitions else None
        return StageCost(depth, stage.width, parameters, flops, seconds, self.samples[index])

    def compile(self, **options: Any) -> None:
        """Compile what runs block by block, in this stage and all later ones (`fxgrow.compile`)."""
        self.__dict__["_runner"] = compile_blocks(self._running, **options)
        self._compile_options = options

    def train(self, mode: bool = True) -> "Progressive":
        """Put the model in training mode, or in evaluation mode."""
        super().train(mode)
        self.model.training = mode
        self._follow_modes()
        return self

    def _woken(self, stage: int) -> dict[Part, list[Part]]:
        return woken_from(self._parts, *self._running_parts[stage - 1 : stage + 1])

    def _run_stage(self) -> None:
        become(self._running, self._graph_of(self.stage))
        options = self._compile_options
        # The old compiled form lives until the new one exists, which takes over the blocks that it has compiled.
        runner = self._running.forward if options is None else compile_blocks(self._running, **options)
        self.__dict__["_runner"] = runner  # another object in each stage, by which torch.compile sees what has changed
        self._follow_modes()
        for parameter in itertools.chain(*self.parameters_by_stage()[self.stage + 1 :]):
            parameter.grad = None  # of an earlier training of the whole: an optimizer would step it, or decay it
        companions_of(self).watch.idle = self._idle_slices()

    def _graph_of(self, stage: int) -> fx.GraphModule:
        running = self._running_parts[stage]
        idle = [part for index, part in enumerate(self._parts.parts) if index not in running]
        return stage_graph(self._whole, idle, self.stages[stage].width)

    def _idle_slices(self) -> tuple[IdleSlice, ...]:
        pieces = idle_slices(self._whole, self._slices[self.stage], {})
        return tuple(piece for piece in pieces if isinstance(piece.tensor, nn.Parameter))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Progressive":
        """Move parameters and buffers, those that the graphs hold beside the model's modules included."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        move_buffers(self.model, (self._whole, self._running), fn)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Progressive":
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        companions_of(copied).watch.idle = copied._idle_slices()
        companions_of(self).copies.add(copied)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model and the stages; the graph is traced anew."""
        state = (self.stage, self.samples)
        return rebuild, (type(self).__bases__[0], self.model, self._example_inputs, self.stages, self.schedule, state)
