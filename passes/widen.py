"""Widen: give a hidden width more units, in pairs that cancel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.passes.base import Pass
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.lineage import Lineage
from fxgrow.record.location import name_of
from fxgrow.record.record import Growth
from fxgrow.widths.axes import Axis, leaves, resizable
from fxgrow.widths.hidden_units import Units
from fxgrow.widths.layout_analysis import find_layouts
from fxgrow.widths.layouts import Contraction, Layout, Layouts, SiteRows
from fxgrow.widths.resizing import Resizing, carry_out, plan_resizing


@dataclass(frozen=True)
class Widen(Pass):
    """Add hidden units to what a site computes, so that the function stays.

    Rewrites:
        1. A hidden layer (Linear or convolution, then anything elementwise, BatchNorm, products with other sites as in
           gated MLPs, then Linear or convolution): `by` more units.
        2. Attention, at q, k, v or a fused qkv: `by` more dimensions in every head, or `by` more heads. q and k are
           widened together, v together with proj, all of them where one map makes them; heads stay contiguous, and the
           scale stays that of the old head size.

        The new units come in matched pairs, whose incoming weights are equal and whose outgoing weights differ by +r
        and -r with a random r: the pair adds nothing at insertion, and breaks apart at the first step. *pairs* makes
        both units new. *split* makes one of them a unit that is there, and shares its outgoing weights between the two.
        Between queries and keys, what goes out is the key.

    Leaves alone:
        Widths that something else depends on, with the reason: residual streams, inputs and outputs, what is
        normalised (as by query norms) or rotated, grouped convolutions, rows on which a pseudo-layer grew; and units
        with active dropout, which would draw a mask for each half of a pair.

    Preserves:
        The function, and the gradients of all parameters that keep their shape. Widened parameters are new ones under
        the old names, which hold the old values, and have no ``.grad`` yet.

    Args:
        site: Module path of a site whose output rows are hidden units.
        by: How many units to add; for attention, in each head, or how many heads.
        how: ``"pairs"`` or ``"split"``. Pairs need an even `by`; split at most doubles the units.
        heads: Whether to add heads, and not dimensions to every head.
        seed: Seed of the random weights.
    """

    site: str
    by: int
    how: Literal["pairs", "split"] = "pairs"
    heads: bool = False
    seed: int = 0

    name: ClassVar[str] = "widen"
    idempotent: ClassVar[bool] = False
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Replace the parameters that hold the units, and rewrite the sizes that the graph spells.

        Raises:
            PassError: If the width cannot change, or `by` does not fit.
        """
        carry_out(graph_module, self.plan(graph_module), seed=self.seed, keep_scale=True)

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Return how moments are resized with the parameters: halved with the gradients, zero for new units."""
        return self.plan(before).lineages()

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return the line of the growth history."""
        return (Growth("width", self.site, parameter_count(after) - parameter_count(before), neurons=self.by),)

    def plan(self, graph_module: fx.GraphModule) -> Resizing:
        """Return which tensors are resized, and how.

        Raises:
            PassError: If the width cannot change, or `by` does not fit.
        """
        found = find_layouts(graph_module)
        axis = hidden_axis(found, self.site, heads=self.heads)
        for node, dims in found.dropouts:
            if any(axis in leaves(dim) for dim in dims):
                what = f"{name_of(node)} drops its units, each half of a pair by itself"
                raise PassError(what, where=self.site, fix="set the rate of that dropout to zero first")
        return plan_resizing(found, {axis: self._units(axis)}, flipped=_flipped(found, axis, self.site))

    def _units(self, axis: Axis) -> Units:
        old = axis.size
        if self.by < 1 or (self.how == "pairs" and self.by % 2) or (self.how == "split" and self.by > old):
            fix = "give a positive even number" if self.how == "pairs" else f"give a number from 1 to {old}"
            raise PassError(f"by={self.by} does not fit how={self.how!r}", where=self.site, fix=fix)
        old_units, factors = torch.arange(old), torch.ones(old + self.by, dtype=torch.float64)
        if self.how == "pairs":
            index = torch.cat((old_units, torch.full((self.by,), -1)))
            pairs = tuple((unit, unit + 1) for unit in range(old, old + self.by, 2))
            return Units(index, factors, factors, pairs)
        chosen = torch.randperm(old, generator=torch.Generator().manual_seed(self.seed))[: self.by]
        halved = factors.clone()
        halved[chosen] = halved[old:] = 0.5
        pairs = tuple((int(unit), old + place) for place, unit in enumerate(chosen))
        return Units(torch.cat((old_units, chosen)), halved, halved, pairs)


def hidden_axis(found: Layouts, site: str, *, heads: bool = False) -> Axis:
    """Return the axis of a site's rows that can be resized: the hidden units, the head's dimensions, or the heads.

    Raises:
        PassError: If there is none.
    """
    if site not in found.rows:
        fix = "`fxgrow inspect` lists the sites"
        raise PassError("there is no site of this name in the graph", where=site, fix=fix)
    axes = leaves(found.rows[site])
    chosen = axes[-2:-1] if heads else axes[-1:]
    if heads and len(axes) < 2:
        raise PassError("its rows are not heads of several dimensions", where=site, fix="leave heads out")
    if not chosen or not resizable(chosen):
        reason = chosen[0].frozen if chosen else "it has a single row"
        raise PassError(f"its width cannot change: {reason}", where=site, fix="name a site whose output stays hidden")
    return chosen[0]


def _flipped(found: Layouts, axis: Axis, site: str) -> list[SiteRows]:
    """Return the rows that go out into a product of two computed values, as keys do."""
    flipped: list[SiteRows] = []
    for contraction in found.contractions:
        if axis in leaves(contraction.dim):
            flipped.extend(_side(found, contraction, axis, site).origins)
    return flipped


def _side(found: Layouts, contraction: Contraction, axis: Axis, site: str) -> Layout:
    """Return the side of a product whose sign follows that of its rows, and which is read there alone."""
    for side in (contraction.right, contraction.left):
        own = all(axis in leaves(found.rows[origin.site]) for origin in side.origins)
        alone = all(found.readers[origin] == [contraction.node] for origin in side.origins)
        if side.odd and side.origins and own and alone:
            return side
    what = (
        f"its width cannot change: {name_of(contraction.node)} multiplies two values that are not linear in their rows"
    )
    raise PassError(what, where=site, fix="widen another site")
