"""What is left of the budget of a run: its model's history says what was spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.fx as fx

from fxgrow.errors import PlanError
from fxgrow.growth.budget import Budget, resolve_budget
from fxgrow.record.record import GrowthEvent, record_of


@dataclass
class Purse:
    """The budget of all events of a run. It keeps no account: a resumed run has what the run had left."""

    budget: Budget
    total: int  #: what all events together may add, in the budget's unit
    per_event: int | None  #: what each may add at most

    @classmethod
    def of(cls, graph_module: fx.GraphModule, budget: Budget) -> "Purse":
        """Return the purse of a model, which may have grown already.

        Raises:
            PlanError: If the budget counts FLOPs and the model does not know its own.
        """
        base = budget.size_of(graph_module) - _spent(record_of(graph_module).history, budget)
        per_event = None if budget.per_event is None else resolve_budget(base, budget.per_event)
        return cls(budget, resolve_budget(base, budget.total), per_event)

    def remaining(self, graph_module: fx.GraphModule) -> int:
        """Return what may still be added."""
        return self.total - _spent(record_of(graph_module).history, self.budget)

    def share(self, graph_module: fx.GraphModule, events: int | None, asked: float | None) -> int:
        """Return what the next event may add, in the budget's unit.

        Args:
            graph_module: The model.
            events: How many events there will be in all; None where nobody knows.
            asked: What the event shall have, as a fraction or a number; None for an even share of what remains.

        Raises:
            PlanError: If that is more than what remains.
        """
        done, remaining = len(planned(record_of(graph_module).history)), self.remaining(graph_module)
        if asked is None:
            limit = remaining // max((events or 0) - done, 1)
            limit = limit if self.per_event is None else min(limit, self.per_event)
        else:
            limit = resolve_budget(self.budget.size_of(graph_module), asked)
        if not 0 < limit <= remaining:
            raise PlanError(
                f"{limit:,} {self.budget.unit} are asked for and {remaining:,} remain of the whole budget",
                where=f"growth event {done + 1}",
                fix="give the Grower a larger budget",
            )
        return limit

    def receipt(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Any]:
        """Return what the history shall remember of an event, where it does not by itself."""
        if self.budget.unit == "parameters":
            return {}
        return {"flops_before": self.budget.size_of(before), "flops_after": self.budget.size_of(after)}


def planned(history: Sequence[GrowthEvent]) -> list[GrowthEvent]:
    """Return the events that were planned within a budget, and not made by name."""
    return [event for event in history if event.budget is not None]


def _spent(history: Sequence[GrowthEvent], budget: Budget) -> int:
    events = planned(history)
    if budget.unit == "parameters":
        return sum(event.parameters_after - event.parameters_before for event in events)
    return sum(event.context.get("flops_after", 0) - event.context.get("flops_before", 0) for event in events)
