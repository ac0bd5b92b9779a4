"""Grow a traced model where its scores say so."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.fx as fx

from fxgrow.curvature.scores import Scores
from fxgrow.graph.memory import overwrites
from fxgrow.growth.plan import Plan, plan
from fxgrow.optimizers.extension import extend_optimizer
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.annotations import annotation
from fxgrow.record.record import GrowthEvent, SiteGrowth, record_of, update_record


def grow(
    traced: fx.GraphModule,
    scores: Scores,
    *,
    budget: float = 0.10,
    operator: str = "serial",
    allocation: str = "even",
    include: tuple[str, ...] | list[str] = (),
    exclude: tuple[str, ...] | list[str] = (),
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a grown copy of `traced` that computes the same function.

    The result shares the parameters of `traced`, which stays as it was: an optimizer that holds them stays valid. The
    parameters that were added are listed by `fxgrow.new_parameters`; given an `optimizer`, they are added to the groups
    of the sites that grew, and the state of the others is left alone.

    Args:
        traced: A traced model, from `fxgrow.trace` or from plain ``torch.fx.symbolic_trace``.
        scores: What `fxgrow.analyze` measured on it.
        budget: Parameters to add at most: a float is a fraction of the model's, an int a number.
        operator: The kind of pseudo-layer (`fxgrow.operators`).
        allocation: How the budget is shared out among sites (`fxgrow.plan`).
        include: Module paths or shell patterns of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        optimizer: The optimizer that trains `traced`.
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
    grown = carry_out(traced, decided, scores, context=context or {})
    if optimizer is not None:
        extend_optimizer(optimizer, grown)
    return grown


def carry_out(traced: fx.GraphModule, decided: Plan, scores: Scores, *, context: Mapping[str, Any]) -> fx.GraphModule:
    """Carry out a plan, starting pseudo-layers from the scores' eigenvectors where their operator wants them."""
    first_edit = len(record_of(traced).edits)
    grown = FunctionalizeInplace()(traced).graph_module if overwrites(traced) else traced
    grown = decided.edit(scores)(grown).graph_module
    event = GrowthEvent(
        parameters_before=parameter_count(traced),
        parameters_after=parameter_count(grown),
        budget=decided.budget,
        allocation=decided.allocation,
        sites=tuple(_site_growths(grown, decided, scores)),
        first_edit=first_edit,
        context=dict(context),
    )
    before = {name for name, _ in traced.named_parameters()}
    added = tuple(name for name, _ in grown.named_parameters() if name not in before)
    update_record(grown, history=(*record_of(grown).history, event), new_parameters=added)
    return grown


def _site_growths(grown: fx.GraphModule, decided: Plan, scores: Scores) -> Iterator[SiteGrowth]:
    last_edit = len(record_of(grown).edits) - 1
    paths = {
        made["site"]: made["pseudo_layer"]
        for made in (annotation(node).get("provenance", {}) for node in grown.graph.nodes)
        if made.get("edit") == last_edit and made.get("role") == "residual-edge"
    }
    for site, rows in decided.rows.items():
        chosen = list(rows)
        held_out, stderr = scores[site].held_out[chosen], scores[site].stderr[chosen]
        yield SiteGrowth(
            site=site,
            pseudo_layer=paths[site],
            operator=decided.operator,
            neurons=len(rows),
            parameters=sum(p.numel() for p in grown.get_submodule(paths[site]).parameters()),
            score=scores.score,
            held_out=float(held_out.mean()),
            stderr=float(stderr.square().sum().sqrt() / len(rows)),
        )
