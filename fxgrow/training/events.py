"""One growth event: what is measured, what grows, and what must not have changed."""

from dataclasses import dataclass

import torch
import torch.fx as fx

from fxgrow.curvature import Scores, analyze, find_score
from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction, loss_of
from fxgrow.curvature.probe_data import CountSamples, read_batches
from fxgrow.errors import VerificationError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.preservation import preserved
from fxgrow.graph.sharing import share
from fxgrow.growth import grow
from fxgrow.growth.allocation import find_allocation
from fxgrow.operators import find_operator
from fxgrow.optimizers import Optimizers
from fxgrow.record.record import GrowthEvent


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
        FxgrowError: If the score, the operator or the allocation does not exist.
    """

    loss_fn: LossFunction
    score: str
    operator: str
    allocation: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_samples: int
    samples: CountSamples | None

    def __post_init__(self) -> None:
        find_score(self.score)
        find_operator(self.operator)
        find_allocation(self.allocation)

    def read(self, graph_module: fx.GraphModule, batches: object, seed: int) -> tuple[Batch, ...]:
        """Read the probe data."""
        return read_batches(
            graph_module,
            batches,  # type: ignore[arg-type]
            seed=seed,
            max_samples=self.max_samples,
            samples=self.samples,
            targets=self.loss_fn is not None,
        )

    def measure(
        self, graph_module: fx.GraphModule, read: tuple[Batch, ...], seed: int
    ) -> tuple[fx.GraphModule, Scores]:
        """Return a copy of the graph, on whose nodes the scores are written, and the scores."""
        measured = share(graph_module)
        return measured, analyze(measured, self.loss_fn, read, score=self.score, sites=self.include or None, seed=seed)

    def grow(
        self, measured: fx.GraphModule, scores: Scores, budget: int, optimizer: Optimizers, seed: int
    ) -> fx.GraphModule:
        """Return the grown graph; the optimizer goes on with it."""
        return grow(
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

    def loss(self, graph_module: fx.GraphModule, batch: Batch) -> float:
        """Return the loss on one batch in eval mode, leaving the model as it was."""
        with preserved(graph_module), torch.no_grad():
            graph_module.eval()
            output = Inputs.of(graph_module, batch.inputs).call(graph_module)
            return float(loss_of(self.loss_fn, output, batch))


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
