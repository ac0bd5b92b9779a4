"""Slim: narrow all hidden widths, for a model that starts small and grows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.passes.base import Pass
from fxgrow.record.lineage import Lineage
from fxgrow.widths.axes import Axis, leaves, resizable
from fxgrow.widths.hidden_units import Units
from fxgrow.widths.layout_analysis import find_layouts
from fxgrow.widths.layouts import Layouts
from fxgrow.widths.resizing import Resizing, carry_out, plan_resizing


@dataclass(frozen=True)
class Slim(Pass):
    """Keep a share of the hidden units everywhere, and let every residual stream keep its width.

    Rewrites:
        1. Hidden layers: the leading units stay. All of a gated MLP's maps lose the same units.
        2. Attention: every head keeps its leading dimensions, in q, k, v and proj alike, and the scale becomes that of
           the new head size. With `heads`, the leading heads stay, with all their dimensions.

    Leaves alone:
        Widths that something else depends on: residual streams, inputs and outputs, what is normalised or rotated,
        grouped convolutions, rows on which a pseudo-layer grew.

    Preserves:
        Inputs and outputs, and their shapes. *Not* the function: the model that comes out is another one, to be trained
        from the start. Slimmed parameters are new ones under the old names.

    Args:
        ratio: The share of units that stay, between 0 and 1.
        heads: Whether attention loses heads, and not dimensions of every head. Both give the same number of parameters.
    """

    ratio: float = 0.5
    heads: bool = False

    name: ClassVar[str] = "slim"
    idempotent: ClassVar[bool] = False
    preserves_function: ClassVar[bool] = False
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Replace the parameters that hold the units, and rewrite the sizes that the graph spells.

        Raises:
            PassError: If the ratio is not between 0 and 1, or no width can change.
        """
        carry_out(graph_module, self.plan(graph_module), seed=0, keep_scale=False)

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Return how moments lose what the parameters lost."""
        return self.plan(before).lineages()

    def plan(self, graph_module: fx.GraphModule) -> Resizing:
        """Return which tensors are resized, and how.

        Raises:
            PassError: If the ratio is not between 0 and 1, or no width can change.
        """
        if not 0 < self.ratio < 1:
            raise PassError("it is not between 0 and 1", where=f"ratio {self.ratio}", fix="give the share that stays")
        found = find_layouts(graph_module)
        chosen: dict[Axis, Units] = {}
        reasons: dict[str, str] = {}
        for path, rows in found.rows.items():
            axes = leaves(rows)
            free = resizable(rows)
            if not free or axes[-1].frozen:
                reasons[path] = axes[-1].frozen if axes else "it has a single row"
                continue
            axis = free[-2] if self.heads and len(free) > 1 else free[-1]
            if _shares_a_dimension(found, axis, chosen):
                continue
            count = max(1, round(axis.size * self.ratio))
            factors = torch.ones(count, dtype=torch.float64)
            chosen[axis] = Units(torch.arange(count), factors, factors)
        if not chosen:
            path, reason = next(iter(reasons.items()), ("the model", "it has no site"))
            raise PassError(f"no width can change, this one because {reason}", where=path, fix="grow it as it is")
        return plan_resizing(found, chosen)


def _shares_a_dimension(found: Layouts, axis: Axis, chosen: Mapping[Axis, Units]) -> bool:
    """Say whether a dimension of some parameter has this axis and a chosen one, as heads that are mixed by a map."""
    dims = (*found.rows.values(), *found.columns.values(), *found.channelwise.values())
    return any(
        axis in axes and any(other in chosen for other in axes if other is not axis) for axes in map(leaves, dims)
    )
