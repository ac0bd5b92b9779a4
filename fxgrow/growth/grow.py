"""Grow a traced model where its scores say so."""

from collections.abc import Mapping
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.curvature.scores import Scores
from fxgrow.errors import PlanError
from fxgrow.graph.memory import overwrites
from fxgrow.growth.budget import BUDGET_IN_WORDS, Budget
from fxgrow.growth.plan import plan
from fxgrow.optimizers import Optimizers
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.record.record import remember


@checks_arguments(PlanError, scores="what fxgrow.analyze returned", budget=BUDGET_IN_WORDS)
def grow(
    traced: nn.Module,
    scores: Scores,
    *,
    budget: Budget | float = 0.10,
    operator: str = "serial",
    allocation: str = "even",
    include: tuple[str, ...] | list[str] = (),
    exclude: tuple[str, ...] | list[str] = (),
    optimizer: Optimizers | None = None,
    seed: int = 0,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a grown copy of `traced` that computes the same function, but for half-steps, which change it.

    The result shares the parameters of `traced`, which stays as it was: an optimizer that holds them stays valid. The
    parameters that were added are listed by `fxgrow.new_parameters`; given an `optimizer`, they are added to the groups
    of the sites that grew, and the state of the others is left alone.

    Args:
        traced: A traced model, from `fxgrow.trace` or from plain ``torch.fx.symbolic_trace``.
        scores: What `fxgrow.analyze` measured on it.
        budget: Parameters to add at most: a float is a fraction of the model's, an int a number; or a `Budget`
            (`fxgrow.plan`).
        operator: The kind of pseudo-layer (`fxgrow.operators`), or ``"half-step"`` or ``"half-step-apart"``.
        allocation: How the budget is shared out among sites (`fxgrow.plan`).
        include: Module paths or shell patterns of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        optimizer: The optimizer that trains `traced`, or several that share its parameters.
        seed: Seed of the pseudo-layers' random initialisation. The global random state is not touched.
        context: What the growth history shall remember of this event (epoch, loss), JSON values.

    Raises:
        PlanError: If no plan fits (see `fxgrow.plan`), or the optimizer does not hold the parameters of a site that
            grows. Nothing has changed then.

    Example:
        >>> grown = grow(traced, analyze(traced, loss_fn, batches), budget=0.05)  # doctest: +SKIP
    """
    decided = plan(
        traced,
        scores,
        budget=budget,
        operator=operator,
        allocation=allocation,
        include=include,
        exclude=exclude,
        seed=seed,
    )
    functional = FunctionalizeInplace()(traced).graph_module if overwrites(traced) else traced
    grown = decided.edit(scores)(functional, optimizer).graph_module
    return remember(grown, context, budget=decided.budget, allocation=decided.allocation, scores=scores.evidence())
