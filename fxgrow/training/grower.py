"""`Grower`: what must happen together when a model grows in the middle of its training."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsFloat

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.curvature.capture import LossFunction
from fxgrow.curvature.probe_data import CountSamples
from fxgrow.errors import DivergenceError, PlanError, TraceError
from fxgrow.execution.place import Place
from fxgrow.growth.budget import BUDGET_IN_WORDS, Budget, as_budget
from fxgrow.optimizers import Optimizers, listed, unchanged_on_failure
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import DataParallel, layers, unwrap
from fxgrow.record.record import GrowthEvent, new_parameters, record_of, remember
from fxgrow.training.divergence import describe_divergence
from fxgrow.training.events import Event, GrowthReport, check_equal, significant_share
from fxgrow.training.growing import Growing, Wrap
from fxgrow.training.purse import Purse, planned
from fxgrow.training.resuming import Resumable, Stateful
from fxgrow.training.schedule import Times, as_schedule
from fxgrow.training.young import Young


class Grower(Resumable):
    """A model that grows while it trains: the model, its optimizers and averages, kept in step.

    The training loop stays the user's own. It calls `model`, one object for the whole run, steps the optimizer, and
    asks at each epoch, or each step, whether growth is due:

        grower = Grower(traced, loss_fn, optimizer, budget=0.4, at=(10, 20, 30))
        for epoch in range(100):
            if grower.due(epoch):
                grower.grow(batches, context={"epoch": epoch})
            for images, labels in batches:
                loss = loss_fn(grower.model(images), labels)
                ...

    `state_dict` and `load_state_dict` hold and bring back the whole run (`docs/growing_while_training.md`).

    Args:
        traced: The model, from `fxgrow.trace` or ``torch.fx.symbolic_trace``. It grows in place. A `Growing` that
            somebody holds already, as from `fxgrow.trace_inside`, becomes `model`.
        loss_fn: Maps the model's output and the target to the mean loss over the batch; None for a model that computes
            its loss itself, as for `fxgrow.analyze`.
        optimizer: The optimizer that holds the model's parameters, or several. It is extended, never replaced.
        within: The larger model of which it is a part: `loss_fn` and the batches are then those of that
            (`fxgrow.grow_inside`).
        wrap: Makes of the model what is trained (DistributedDataParallel, ``fully_shard``, ``.to(memory_format=...)``),
            applied anew after each growth.
        scheduler: The learning-rate scheduler, or several: part of the run's state, and not touched by growth.
        ema: The average of the weights, or several: `torch.optim.swa_utils.AveragedModel`, timm's `ModelEmaV3`, or any
            module that holds a copy of the model. The copy grows too and stays the average.
        also: What else has a state that a resumed run needs, by name: a GradScaler, a loader, a ``torch.Generator``.
        budget: What all events together may add: a float is a fraction of the parameters at the start, an int a number,
            a `fxgrow.growth.Budget` says more. Events that the model has in its history already are paid from it.
        at: When growth is due: epochs or steps, or a `Schedule`.
        score: The score that ranks the neurons.
        operator: The kind of pseudo-layer, or ``"half-step"``: then the loss after growth is another one.
        allocation: How an event's budget is shared out among sites.
        include: Module paths or shell patterns of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        max_samples: Samples that an analysis reads at most.
        samples: Says how many samples a batch holds, where neither target nor model shows it (`fxgrow.analyze`).
        new_lr_factor: The learning rate of new parameters over that of their group, for good; 0 freezes them.
        new_warmup: Over how many steps the learning rate of new parameters rises to that.
        compile: Whether `model` is compiled block by block.
        compile_options: Options of ``torch.compile``.
        seed: Seed of the analyses and of the new parameters; every event draws its own from it.

    Attributes:
        model: What the training loop calls (`Growing`): one object for the whole run.
        position: Where the loop is in its data, plain values that travel in the state.
        steps: How many optimizer steps were made.

    Raises:
        PlanError: If an option does not fit.
        TraceError: If the model is not traced, or is in DistributedDataParallel, which cannot follow growth.
    """

    @checks_arguments(PlanError, budget=BUDGET_IN_WORDS)
    def __init__(
        self,
        traced: nn.Module,
        loss_fn: LossFunction,
        optimizer: Optimizers,
        *,
        within: nn.Module | None = None,
        wrap: Wrap | None = None,
        scheduler: Stateful | Sequence[Stateful] | None = None,
        ema: nn.Module | Sequence[nn.Module] | None = None,
        also: Mapping[str, Stateful | torch.Generator] | None = None,
        budget: Budget | float = 0.5,
        at: Times = (),
        score: str = "eigen",
        operator: str = "serial",
        allocation: str = "even",
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        max_samples: int = 512,
        samples: CountSamples | None = None,
        new_lr_factor: float = 1.0,
        new_warmup: int = 0,
        compile: bool = True,
        compile_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        _refuse_data_parallel(traced)
        graph_module, optimizers = unwrap(traced), listed(optimizer)
        if not optimizers:
            raise PlanError("there is none", where="optimizer", fix="give the optimizer that trains the model")
        self.loss_fn, self.optimizer, self.schedule = loss_fn, optimizer, as_schedule(at)
        self._purse = Purse.of(graph_module, as_budget(budget))
        place = None if within is None else Place.of(within, traced)
        self._event = Event(
            loss_fn, score, operator, allocation, tuple(include), tuple(exclude), max_samples, samples, place
        )
        self._seed = seed
        self._schedulers = _several(scheduler)
        self._also = dict(also or {})
        self.steps = 0
        self.position: dict[str, Any] = {}
        self._young = Young(new_lr_factor, new_warmup)
        options = dict(compile_options or {}) if compile else None
        self.model = traced if isinstance(traced, Growing) else Growing(graph_module, compile_options=options)
        self.model.train_with(optimizers, averages=_several(ema), wrap=wrap)
        for one in optimizers:
            self._young.watch(one, graph_module)
        optimizers[0].register_step_post_hook(self._count_step)

    @property
    def history(self) -> tuple[GrowthEvent, ...]:
        """The growth events of the model so far."""
        return record_of(self.graph_module).history

    @property
    def remaining(self) -> int:
        """What may still be added, in parameters or in the unit of the budget."""
        return self._purse.remaining(self.graph_module)

    @checks_arguments(PlanError)
    def due(self, now: float, *, metric: SupportsFloat | None = None, batches: Iterable[Any] | None = None) -> bool:
        """Return whether growth is due. One that is due stays so until it has happened.

        Args:
            now: The present epoch or step.
            metric: What `Plateau` watches: a number, or a tensor of one.
            batches: What `Significance` measures on.
        """

        def share() -> float:
            if batches is None:
                fix = "call grower.due(now, batches=...) with training data"
                raise PlanError("significance is measured on data, and none is given", where="due", fix=fix)
            seed = self._event_seed
            with self.model.whole():
                read = self._event.read(self.graph_module, batches, seed)
                return significant_share(self._event.measure(self.graph_module, read, seed)[1])

        return self.schedule.due(now, self._events, None if metric is None else float(metric), share)

    @checks_arguments(PlanError)
    def grow(
        self, batches: Iterable[Any], *, budget: float | None = None, context: Mapping[str, Any] | None = None
    ) -> GrowthReport:
        """Measure the scores, grow, check that the loss is the same, and let all that trains the model go on.

        Either all of it happens or nothing. The history remembers `context` and the loss before and after.

        Args:
            batches: Pairs ``(inputs, target)`` of training data; the loss is compared on the first.
            budget: Parameters that this event may add (a fraction or a number); None shares what remains of the whole
                budget evenly over the scheduled events that are still to come.
            context: What the history shall remember of this event, JSON values.

        Raises:
            AnalysisError: If the batches are empty, or the loss does not fit.
            PlanError: If the budget is spent, no plan fits, or the optimizer does not hold what grows.
            VerificationError: If the grown model's loss is another.
        """
        started, seed, event = time.monotonic(), self._event_seed, self._event
        limit = self._limit(budget)
        with self.model.whole(), unchanged_on_failure(self.optimizer):
            read = event.read(self.graph_module, batches, seed)
            measured, scores = event.measure(self.graph_module, read, seed)
            before = event.loss(measured, read[0])
            grown = event.grow(measured, scores, replace(self._purse.budget, total=limit), self.optimizer, seed)
            after = event.loss(grown, read[0])
            if event.preserves_function:
                check_equal(before, after)
            losses = {"loss_before": before, "loss_after": after}
            remember(grown, {**(context or {}), **losses, **self._purse.receipt(measured, grown)})
            self.model = self._compiled(grown)
        self._young.add(new_parameters(self.graph_module))
        return GrowthReport(self.history[-1], scores, before, after, time.monotonic() - started)

    def check(self, loss: Tensor | float, inputs: Any) -> None:
        """Stop a training whose loss is not finite, before the weights are.

        Args:
            loss: The loss of a batch.
            inputs: The inputs of the batch, as for the model.

        Raises:
            DivergenceError: If the loss is not finite; the message says the step and the first module whose output is
                not.
        """
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        if not math.isfinite(value):
            where = describe_divergence(self.graph_module, inputs)
            raise DivergenceError(f"the loss is {value}: {where}", step=self.steps)

    @property
    def _events(self) -> int:
        return len(planned(self.history))

    @property
    def _event_seed(self) -> int:
        return self._seed + self._events

    def _limit(self, budget: float | None) -> int:
        return self._purse.share(self.graph_module, self.schedule.events, budget)

    def _compiled(self, grown: fx.GraphModule) -> Growing:
        """Return the model, which has become what grew, with its averages, its compiled form and what wraps it."""
        self.model.become(grown)
        return self.model

    def _count_step(self, *_: Any) -> None:
        self.steps += 1


def _several(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


def _refuse_data_parallel(model: nn.Module) -> None:
    """Refuse a wrapper that would go on averaging the gradients of the parameters that it knew when it was made."""
    if isinstance(model, nn.Module):
        wrapper = next((type(layer).__name__ for layer in layers(model) if isinstance(layer, DataParallel)), None)
        if wrapper is not None:
            fix = "give the model inside, and wrap grower.model anew after each growth event"
            raise TraceError("it cannot follow a model that grows", where=wrapper, fix=fix)
