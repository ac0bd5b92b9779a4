"""What growth may cost, in parameters or FLOPs, and in which portions neurons grow."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.fx as fx

from fxgrow.errors import PlanError
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.primitives.arguments import check_fields
from fxgrow.primitives.modules import parameter_count

BUDGET_IN_WORDS = "a fraction of the parameters as a float (0.10) or a number of parameters as an int"


@dataclass(frozen=True)
class Budget:
    """What growth may cost, and in which portions neurons grow.

    Args:
        total: What may be added: a float is a fraction of what the model has, an int a number.
        unit: Of what: ``"parameters"``, or the ``"flops"`` of a forward pass for one sample, two for a multiply-add.
        per_event: What one event of a `fxgrow.Grower` may add at most, as `total`.
        least_rows: The neurons of a site that grow together at least; with fewer it does not grow.
        most_rows: The neurons of a site that grow in one event at most.
        multiple: Neurons grow in multiples of it (8 or 16, where hardware likes that).

    Raises:
        PlanError: If a number does not fit.
    """

    total: float = 0.10
    unit: Literal["parameters", "flops"] = "parameters"
    per_event: float | None = None
    least_rows: int = 1
    most_rows: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        check_fields(self, PlanError)
        for number in (self.total, *([] if self.per_event is None else [self.per_event])):
            resolve_budget(1, number)
        if self.unit not in ("parameters", "flops"):
            raise PlanError("there is no such unit", where=f"unit {self.unit!r}", fix="use 'parameters' or 'flops'")
        most = math.inf if self.most_rows is None else self.most_rows
        if min(self.least_rows, self.multiple) < 1 or self.portion(self.least_rows) > most:
            what, fix = "no number of rows is in these bounds", "give least_rows <= most_rows, and multiple=1 or more"
            raise PlanError(what, where=str(self), fix=fix)

    def size_of(self, graph_module: fx.GraphModule) -> int:
        """Return what a model has, in this unit.

        Raises:
            PlanError: If its FLOPs are not known.
        """
        if self.unit == "parameters":
            return parameter_count(graph_module)
        flops = flops_per_sample(graph_module)
        if not flops:
            fix = "trace it with fxgrow.trace(model, example_inputs)"
            raise PlanError("its FLOPs are not known without shapes", where="the model", fix=fix)
        return flops

    def portion(self, rows: int) -> int:
        """Return the smallest number of rows that may grow and is not below `rows`."""
        rows = max(rows, self.least_rows)
        return rows + -rows % self.multiple

    def at_most(self, rows: int) -> int:
        """Return the largest number of rows that may grow and is not above `rows`; 0 where there is none."""
        rows = rows if self.most_rows is None else min(rows, self.most_rows)
        rows -= rows % self.multiple
        return rows if rows >= self.least_rows else 0


def resolve_budget(size: int, budget: float) -> int:
    """Return what may be added, as a number.

    Args:
        size: What there is, of parameters or FLOPs.
        budget: A float is a fraction of it, an int a number.

    Raises:
        PlanError: If the budget is not a positive number.
    """
    if not math.isfinite(budget) or budget <= 0:
        raise PlanError(
            "it is not a positive number",
            where=f"budget {budget!r}",
            fix=f"give {BUDGET_IN_WORDS}",
        )
    if isinstance(budget, int):
        return budget
    return int(budget * size)


def as_budget(budget: Budget | float) -> Budget:
    """Return a budget as it is, and a number as one of parameters.

    Raises:
        PlanError: If it is not a positive number.
    """
    return budget if isinstance(budget, Budget) else Budget(budget)
