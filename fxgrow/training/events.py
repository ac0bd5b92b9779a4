"""One growth event: what is measured, what grows, and what must not have changed."""

import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.fx as fx

from fxgrow.curvature import Scores, analyze, find_score
from fxgrow.curvature.analysis import DEFAULT_MAX_MEMORY
from fxgrow.curvature.batches import Batch, halved
from fxgrow.curvature.capture import LossFunction, loss_of
from fxgrow.curvature.probe_data import CountSamples, read_batches
from fxgrow.errors import FxgrowWarning, PlanError, VerificationError, first_line, ran_out_of_memory
from fxgrow.execution.calling import Inputs
from fxgrow.execution.place import Place
from fxgrow.execution.preservation import preserved
from fxgrow.execution.ranks import Ranks
from fxgrow.graph.sharing import share
from fxgrow.growth import Budget, grow
from fxgrow.growth.allocation import find_allocation
from fxgrow.growth.kinds import find_kind
from fxgrow.optimizers import Optimizers
from fxgrow.record.digest import digest
from fxgrow.record.record import GrowthEvent, record_of


class LowMemoryWarning(FxgrowWarning):
    """Memory ran out in an analysis, which is tried again in halves."""


@dataclass(frozen=True)
class GrowthReport:
    """What one growth event did."""

    event: GrowthEvent  #: sites, neurons, scores, parameters: the entry in the model's history
    scores: Scores
    loss_before: float  #: on the first batch, in eval mode
    loss_after: float  #: of the grown model on the same batch
    seconds: float  #: for the whole event: analysis, rewriting, checking


@dataclass(frozen=True)
class Event:
    """The options that all events of a run share, and the steps of an event, none of which changes its input.

    Raises:
        FxgrowError: If the score, the operator or the allocation does not exist, or no sample may be read.
    """

    loss_fn: LossFunction
    score: str
    operator: str
    allocation: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_samples: int
    samples: CountSamples | None
    place: Place | None = None  #: where the graph lies in a larger model, whose loss it is

    def __post_init__(self) -> None:
        find_score(self.score)
        find_kind(self.operator)
        find_allocation(self.allocation)
        if self.max_samples < 1:
            raise PlanError("it is not positive", where=f"max_samples {self.max_samples}", fix="give 1 or more")

    @property
    def preserves_function(self) -> bool:
        """Whether what grows computes what it did before."""
        return find_kind(self.operator).preserves_function

    def read(self, graph_module: fx.GraphModule, batches: object, seed: int) -> tuple[Batch, ...]:
        """Read the probe data."""
        read, _ = read_batches(
            graph_module,
            batches,  # type: ignore[arg-type]
            seed=seed,
            max_samples=self.max_samples,
            samples=self.samples,
            targets=self.loss_fn is not None,
            place=self.place,
            ranks=Ranks(),
        )
        return read

    def measure(
        self, graph_module: fx.GraphModule, read: tuple[Batch, ...], seed: int
    ) -> tuple[fx.GraphModule, Scores]:
        """Return a copy of the graph, on whose nodes the scores are written, and the scores.

        Where memory runs out, batches and chunks of half the size are tried once, with a warning; not on several ranks,
        which have to do the same.
        """
        try:
            return self._measure(graph_module, read, seed, DEFAULT_MAX_MEMORY)
        except Exception as error:
            if not ran_out_of_memory(error) or Ranks().count > 1:
                raise
            reason = first_line(error)
        warnings.warn(f"memory ran out, measuring again in halves: {reason}", LowMemoryWarning, stacklevel=3)
        return self._measure(graph_module, halved(read), seed, DEFAULT_MAX_MEMORY // 2)

    def _measure(
        self, graph_module: fx.GraphModule, read: tuple[Batch, ...], seed: int, max_memory: int
    ) -> tuple[fx.GraphModule, Scores]:
        measured = share(graph_module)
        scores = analyze(
            measured,
            self.loss_fn,
            read,
            score=self.score,
            sites=self.include or None,
            seed=seed,
            max_memory=max_memory,
            place=self.place,
        )
        return measured, scores

    def grow(
        self, measured: fx.GraphModule, scores: Scores, budget: Budget | float, optimizer: Optimizers | None, seed: int
    ) -> fx.GraphModule:
        """Return the grown graph; the optimizer goes on with it.

        Raises:
            PlanError: If no plan fits, or the optimizer does not hold what grows.
            RankError: If another rank grows otherwise.
        """
        grown = grow(
            measured,
            scores,
            budget=budget,
            operator=self.operator,
            allocation=self.allocation,
            include=self.include,
            exclude=self.exclude,
            optimizer=optimizer,
            seed=seed,
        )
        Ranks().agree("what grew", (digest(grown), record_of(grown).edits[-1]))
        return grown

    def loss(self, graph_module: fx.GraphModule, batch: Batch) -> float:
        """Return the loss on one batch, the mean over the ranks, leaving the model as it was.

        The model is in eval mode. A larger model, in which the graph takes its place, is in the mode that it trains in:
        some have no loss in the other.
        """
        model = graph_module if self.place is None else self.place.model
        with preserved(model, seed=0), torch.no_grad(), ExitStack() as stack:
            if self.place is None:
                model.eval()
            else:
                stack.enter_context(self.place.computing(graph_module))
            loss = loss_of(self.loss_fn, Inputs.of(model, batch.inputs).call(model), batch)
        return Ranks().mean(loss)


def check_equal(before: float, after: float) -> None:
    """Check that growth left the loss alone, to the rounding of single precision.

    Raises:
        VerificationError: If it did not.
    """
    if not abs(after - before) <= 1e-5 * max(1.0, abs(before)):
        raise VerificationError(
            f"the loss on the same batch is {before:.8g} before growth and {after:.8g} after",
            where="growth",
            fix="report this with the model and the operator; the model, the optimizer and the budget are unchanged",
        )


def significant_share(scores: Scores) -> float:
    """Return the share of the scored neurons whose held-out score is significant."""
    significant = [site.significant for site in scores.values()]
    return float(torch.cat(significant).double().mean()) if significant else 0.0
