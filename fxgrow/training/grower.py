"""`Grower`: what must happen together when a model grows in the middle of its training."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.curvature import Scores, analyze, find_score
from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction, loss_of
from fxgrow.curvature.probe_data import CountSamples, read_batches
from fxgrow.errors import PlanError, TraceError, VerificationError
from fxgrow.execution.preservation import preserved
from fxgrow.graph.sharing import share
from fxgrow.growth import grow
from fxgrow.growth.allocation import find_allocation
from fxgrow.growth.budget import resolve_budget
from fxgrow.growth.kinds import find_kind
from fxgrow.optimizers import Optimizers, listed, unchanged_on_failure
from fxgrow.primitives.unwrapping import DataParallel, layers, unwrap
from fxgrow.record.record import GrowthEvent, record_of, remember
from fxgrow.training.compilation import compile as compile_blocks
from fxgrow.training.schedule import check_epochs


@dataclass(frozen=True)
class GrowthReport:
    """What one growth event did."""

    event: GrowthEvent  #: sites, neurons, scores, parameters: the entry in the model's history
    scores: Scores
    loss_before: float  #: on the first batch, in eval mode
    loss_after: float  #: of the grown model on the same batch
    seconds: float  #: for the whole event: analysis, rewriting, checking


class Grower:
    """A model that grows while it trains: the graph, its compiled form and the optimizer, kept in step.

    The training loop stays the user's own. It calls `model`, steps `optimizer`, and asks at each epoch whether growth
    is due:

        grower = Grower(traced, loss_fn, optimizer, budget=0.4, at=(10, 20, 30))
        for epoch in range(100):
            if grower.due(epoch):
                grower.grow(batches, context={"epoch": epoch})
            for images, labels in batches:
                loss = loss_fn(grower.model(images), labels)
                ...

    Args:
        traced: The model, from `fxgrow.trace` or ``torch.fx.symbolic_trace``.
        loss_fn: Maps the model's output and the target to the mean loss over the batch; None for a model that computes
            its loss itself, as for `fxgrow.analyze`.
        optimizer: The optimizer that holds the model's parameters, or several. It is extended, never replaced.
        budget: What all events together may add: a float is a fraction of the parameters at the start, an int a number.
        at: The epochs at which growth is due (`growth_epochs` makes a schedule).
        score: The score that ranks the neurons.
        operator: The kind of pseudo-layer, or ``"half-step"``: then the loss after growth is another one.
        allocation: How an event's budget is shared out among sites.
        include: Module paths or shell patterns of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        max_samples: Samples that an analysis reads at most.
        samples: Says how many samples a batch holds, where neither target nor model shows it (`fxgrow.analyze`).
        compile: Whether `model` is compiled block by block.
        compile_options: Options of ``torch.compile``.
        seed: Seed of the analyses and of the new parameters; every event draws its own from it.

    Raises:
        PlanError: If an option does not fit.
        TraceError: If the model is not traced, or is in DistributedDataParallel, which cannot follow growth.
    """

    def __init__(
        self,
        traced: nn.Module,
        loss_fn: LossFunction,
        optimizer: Optimizers,
        *,
        budget: float = 0.5,
        at: Iterable[int] = (),
        score: str = "eigen",
        operator: str = "serial",
        allocation: str = "even",
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        max_samples: int = 512,
        samples: CountSamples | None = None,
        compile: bool = True,
        compile_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        _refuse_data_parallel(traced)
        listed(optimizer)
        self.graph_module, self.loss_fn, self.optimizer = unwrap(traced), loss_fn, optimizer
        self.at = check_epochs(at)
        self.remaining = resolve_budget(self.graph_module, budget)  #: parameters that may still be added
        self._events = 0
        for name, find in ((score, find_score), (operator, find_kind), (allocation, find_allocation)):
            find(name)  # an unknown name is refused now, and not in the middle of the training
        self._operator, self._allocation = operator, allocation
        self._include, self._exclude = tuple(include), tuple(exclude)
        self._score, self._max_samples, self._samples, self._seed = score, max_samples, samples, seed
        self._compile, self._compile_options = compile, dict(compile_options or {})
        self.model: nn.Module = self._compiled(self.graph_module)  #: what the training loop calls

    def due(self, epoch: int) -> bool:
        """Return whether growth is scheduled at `epoch`."""
        return epoch in self.at

    @property
    def history(self) -> tuple[GrowthEvent, ...]:
        """The growth events of the model so far."""
        return record_of(self.graph_module).history

    def grow(
        self, batches: Iterable[Any], *, budget: float | None = None, context: Mapping[str, Any] | None = None
    ) -> GrowthReport:
        """Measure the scores, grow, check that the loss is the same, extend the optimizer and compile what changed.

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
        started = time.monotonic()
        limit, seed = self._limit(budget), self._seed + self._events
        measured = share(self.graph_module)  # on whose nodes the scores are written
        read = read_batches(
            measured,
            batches,
            seed=seed,
            max_samples=self._max_samples,
            samples=self._samples,
            targets=self.loss_fn is not None,
        )
        scores = analyze(
            measured,
            self.loss_fn,
            read,
            score=self._score,
            sites=self._include or None,
            seed=seed,
        )
        before = self._loss(measured, read[0])
        with unchanged_on_failure(self.optimizer):
            grown = grow(
                measured,
                scores,
                budget=limit,
                operator=self._operator,
                allocation=self._allocation,
                include=self._include,
                exclude=self._exclude,
                optimizer=self.optimizer,
                seed=seed,
            )
            after = self._loss(grown, read[0])
            if find_kind(self._operator).preserves_function:
                _check_equal(before, after)
            remember(grown, {**(context or {}), "loss_before": before, "loss_after": after})
            # The old compiled form is alive until the new one exists, which takes over the blocks that did not change.
            model = self._compiled(grown)
        self.model, self.graph_module = model, grown
        event = self.history[-1]
        self.remaining -= event.parameters_after - event.parameters_before
        self._events += 1
        return GrowthReport(event, scores, before, after, time.monotonic() - started)

    def _limit(self, budget: float | None) -> int:
        """Return the number of parameters that the next event may add."""
        if budget is None:
            budget = self.remaining // max(len(self.at) - self._events, 1)
        limit = resolve_budget(self.graph_module, budget) if budget else 0
        if not 0 < limit <= self.remaining:
            raise PlanError(
                f"{limit:,} parameters are asked for and {self.remaining:,} remain of the whole budget",
                where=f"growth event {self._events + 1}",
                fix="give the Grower a larger budget",
            )
        return limit

    def _compiled(self, graph_module: fx.GraphModule) -> nn.Module:
        return compile_blocks(graph_module, **self._compile_options) if self._compile else graph_module

    def _loss(self, graph_module: fx.GraphModule, batch: Batch) -> float:
        """Return the loss on one batch in eval mode, leaving the model as it was."""
        with preserved(graph_module), torch.no_grad():
            graph_module.eval()
            inputs = batch.inputs
            output = graph_module(**inputs) if isinstance(inputs, dict) else graph_module(*inputs)
            return float(loss_of(self.loss_fn, output, batch))


def _check_equal(before: float, after: float) -> None:
    """Check that growth left the loss alone, to the rounding of single precision."""
    if not abs(after - before) <= 1e-5 * max(1.0, abs(before)):
        raise VerificationError(
            f"the loss on the same batch is {before:.8g} before growth and {after:.8g} after",
            where="growth",
            fix="report this with the model and the operator; the model, the optimizer and the budget are unchanged",
        )


def _refuse_data_parallel(model: nn.Module) -> None:
    """Refuse a wrapper that would go on averaging the gradients of the parameters that it knew when it was made."""
    if isinstance(model, nn.Module):
        wrapper = next((type(layer).__name__ for layer in layers(model) if isinstance(layer, DataParallel)), None)
        if wrapper is not None:
            fix = "give the model inside, and wrap grower.model anew after each growth event"
            raise TraceError("it cannot follow a model that grows", where=wrapper, fix=fix)
