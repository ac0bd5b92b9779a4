"""How a rewrite is applied for a user: the pass, the line in the growth history, the optimizer."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch.fx as fx
from torch.optim import Optimizer

from fxgrow.optimizers.succession import carry_over
from fxgrow.passes.base import PassResult
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.lineage import Lineage
from fxgrow.record.record import GrowthEvent, SiteGrowth, record_of, update_record


class Rewrite(Protocol):
    """A pass that says where its new parameters come from."""

    def __call__(self, graph_module: fx.GraphModule, /) -> PassResult:
        """Apply the pass."""

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Return where each new parameter comes from."""


class Growing(Rewrite, Protocol):
    """A rewrite that adds capacity, and has a place in the growth history."""

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[SiteGrowth, ...]:
        """Return what grew where."""


def rewrite(graph_module: fx.GraphModule, applied: Rewrite, optimizer: Optimizer | None) -> fx.GraphModule:
    """Apply a rewrite and carry the optimizer over; nothing has changed where anything is refused."""
    made = applied(graph_module)
    result = made.graph_module
    if made.modified:
        update_record(result, new_parameters=_new(graph_module, result))
    if optimizer is not None:
        carry_over(optimizer, graph_module, result, applied.lineages(graph_module, result))
    return result


def grow_by(
    graph_module: fx.GraphModule,
    rewrites: tuple[Growing, ...],
    optimizer: Optimizer | None,
    context: Mapping[str, Any] | None,
) -> fx.GraphModule:
    """Apply rewrites that add capacity, as one event of the growth history."""
    result, growths, lineages = graph_module, list[SiteGrowth](), dict[str, Lineage]()
    for applied in rewrites:
        before, result = result, applied(result).graph_module
        growths.extend(applied.growths(before, result))
        lineages.update(applied.lineages(before, result))
    count = parameter_count(graph_module), parameter_count(result)
    event = GrowthEvent(
        parameters_before=count[0],
        parameters_after=count[1],
        budget=count[1] - count[0],
        allocation="named",
        sites=tuple(growths),
        first_edit=len(record_of(graph_module).edits),
        context=dict(context or {}),
    )
    history = (*record_of(result).history, event)
    update_record(result, history=history, new_parameters=_new(graph_module, result))
    if optimizer is not None:
        carry_over(optimizer, graph_module, result, lineages)
    return result


def _new(before: fx.GraphModule, after: fx.GraphModule) -> tuple[str, ...]:
    known = {id(parameter) for parameter in before.parameters()}
    return tuple(name for name, parameter in after.named_parameters() if id(parameter) not in known)
