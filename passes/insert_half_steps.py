"""Half-steps for chosen units: more depth for them, from what they have learnt, and none for their neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.errors import PassError
from fxgrow.execution.shapes import complete_shapes
from fxgrow.graph.interiors import common_path, modules_of
from fxgrow.graph.regions import Region
from fxgrow.graph.sites import find_sites
from fxgrow.passes.base import Pass
from fxgrow.passes.block_copies import BlockCopy
from fxgrow.primitives.modules import parameter_count, replace_parameter, resolves
from fxgrow.record.lineage import Lineage
from fxgrow.record.provenance import Repeat
from fxgrow.record.record import Evidence, Growth
from fxgrow.widths.axes import leaves
from fxgrow.widths.branch_units import BranchUnits, find_branch_units, parameters_read
from fxgrow.widths.hidden_units import Units
from fxgrow.widths.layout_analysis import find_layouts
from fxgrow.widths.resizing import carry_out, plan_resizing


@dataclass(frozen=True)
class InsertHalfSteps(Pass):
    """Give chosen hidden units, or heads, of residual branches a second half-step: a thin branch behind their own.

    Rewrites:
        ``x + f(x)`` with ``f(x) = b + sum_u W_u h_u(x)`` becomes, for the chosen units K,

            y = x + b + sum_{u not in K} W_u h_u(x) + 1/2 sum_{u in K} W_u h_u(x)
            z = y + 1/2 sum_{u in K} W_u h_u(y)

        (half-steps as in Chang et al., ICLR 2018, arXiv 1710.10348, for some units). The thin branch has a copy of all
        that lies between the stream and the units, the branch's norm above all, and lies at ``<block>.half_<index>``.
        Its sites are sites like any others, so that half-steps nest.

    Leaves alone:
        Units that are not named, and other branches. Refused are sites whose rows are no units of a residual branch
        that a linear map ends (`fxgrow.widths.branch_units`), with the reason.

    Preserves:
        Every shape. *Not* the function: it becomes another one, which is close where the units add little
        (`fxgrow.verify` says how far). The halved weights are new ones under the old names, and an optimizer begins
        both halves with fresh moments.

    Args:
        units: The units that are given a half-step, ascending, by the path of the site whose rows they are: hidden
            units by their row, heads by their number.
        apart: How far the halves start from each other: their incoming weights are moved by this share of their length
            along the directions, one forwards and one backwards. Where there are no directions they start equal.
        directions: One vector for each row of the chosen units, ``(rows, features)``, by site: the eigenvectors of the
            scores. They are data and not part of the pass's text.
        evidence: The scores for which the units were chosen, by site: data for the growth history.
    """

    units: Mapping[str, tuple[int, ...]]
    apart: float = 0.0
    directions: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False, metadata={"data": True})
    evidence: Mapping[str, Evidence] = field(default_factory=dict, compare=False, repr=False, metadata={"data": True})

    name: ClassVar[str] = "insert-half-steps"
    idempotent: ClassVar[bool] = False
    preserves_function: ClassVar[bool] = False
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Insert the thin branches, and halve what the chosen units give out.

        Raises:
            PassError: If a site has no such units.
        """
        thin = self._thin_branches(graph_module)
        for branch in sorted(thin, key=lambda branch: branch.region.exit, reverse=True):
            branch.connect(gated=False)  # the last first: it reads what the one before it leaves behind
        complete_shapes(graph_module)
        layouts = find_layouts(graph_module)
        axes = {leaves(layouts.rows[branch.copied_site])[branch.units.place]: branch.kept for branch in thin}
        carry_out(graph_module, plan_resizing(layouts, axes), seed=0, keep_scale=True)
        for branch in thin:
            branch.halve()
            direction = self.directions.get(branch.units.site) if self.apart else None
            if direction is not None:
                branch.move_apart(self.apart * direction)

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Let copies join the groups of their originals, and both halves begin anew."""
        found: dict[str, Lineage] = {}
        for branch in self._thin_branches(before):
            found |= {name: Lineage((name,)) for name in parameters_read(before, branch.units.branch.nodes)}
            copied = parameters_read(before, branch.region.nodes)
            found |= {branch.renamed(name): Lineage((name,)) for name in copied}
        return found

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return a line of the growth history for each thin branch."""
        return tuple(
            Growth(
                kind="half-step",
                site=branch.units.site,
                parameters=parameter_count(after.get_submodule(branch.path)),
                neurons=len(branch.chosen),
                path=branch.path,
                operator="half-step",
                evidence=self.evidence.get(branch.units.site),
            )
            for branch in self._thin_branches(before)
        )

    def _thin_branches(self, graph_module: fx.GraphModule) -> "list[_ThinBranch]":
        """Return what has to be inserted into this very graph; nothing is changed yet."""
        known = find_branch_units(graph_module)
        thin: list[_ThinBranch] = []
        for site, units in self.units.items():
            if site not in known.found:
                what = known.refusals.get(site, "there is no site of this name in the graph")
                fix = "`fxgrow inspect MODEL --node PATH` says where half-steps can go"
                raise PassError(f"it cannot be given half-steps: {what}", where=site, fix=fix)
            _check_units(known.found[site], tuple(units))
            taken = {branch.path for branch in thin}
            thin.append(_ThinBranch(graph_module, known.found[site], tuple(units), taken))
        return thin


class _ThinBranch(BlockCopy):
    """The branch of the chosen units on its way into the graph."""

    def __init__(
        self, graph_module: fx.GraphModule, units: BranchUnits, chosen: tuple[int, ...], taken: set[str]
    ) -> None:
        self.units, self.chosen = units, chosen
        branch, step = units.branch, units.branch.step
        nodes = (*branch.nodes, branch.junction, *([step.exit] if step.exit is not step.total else []))
        place = ".".join(common_path(modules_of(nodes)))
        region = Region(place, nodes, step.entry, step.exit if step.exit is not step.total else branch.junction)
        others, own = branch.sides
        stand_ins = {others: step.entry, own: branch.value, step.total: branch.junction}
        super().__init__(graph_module, region, _free_path(graph_module, place, taken), stand_ins)

    @property
    def copied_site(self) -> str:
        """The site of the units in the thin branch."""
        return self.renamed(self.units.site)

    @property
    def kept(self) -> Units:
        """What the thin branch keeps of its units."""
        ones = torch.ones(len(self.chosen), dtype=torch.float64)
        return Units(torch.tensor(self.chosen), ones, ones / 2)

    def connect(self, *, gated: bool) -> None:
        """Insert the branch behind the step, and say whose rows it repeats."""
        super().connect(gated=gated)
        rows = self.units.rows_of(self.chosen)
        repeats = tuple(Repeat(site, self.renamed(site), own) for site, own in rows.items())
        self.mark(self.units.branch.junction, repeats=repeats)

    def halve(self) -> None:
        """Halve what the units give out in their own branch, and leave the bias at its end to that."""
        last = self.units.last
        factor = torch.where(torch.isin(self.units.columns, torch.tensor(self.chosen)), 0.5, 1.0)
        factor = factor.repeat_interleave(last.map.features // last.map.in_channels)
        with torch.no_grad():
            weight = self.graph_module.get_parameter(last.weight)
            rows = last.map.to_rows(weight) * factor.to(weight)
            replace_parameter(self.graph_module, last.weight, last.map.to_weight(rows).contiguous())
            if last.bias is not None:
                self.graph_module.get_parameter(self.renamed(last.bias)).zero_()

    def move_apart(self, directions: Tensor) -> None:
        """Move the incoming weights of the halves apart, by `directions` times their length."""
        sites = find_sites(self.graph_module)
        site, copied = sites[self.units.site], sites[self.copied_site]
        rows = list(self.units.rows_of(self.chosen)[site.path])
        with torch.no_grad():
            weight = site.rows(self.graph_module)
            change = directions.to(weight) * weight[rows].norm(dim=1, keepdim=True)
            moved = weight.index_add(0, torch.tensor(rows, device=weight.device), change)
            replace_parameter(self.graph_module, site.weight, site.map.to_weight(moved).contiguous())
            thin = copied.rows(self.graph_module) - change
            self.graph_module.get_parameter(copied.weight).copy_(copied.map.to_weight(thin))


def _free_path(graph_module: fx.GraphModule, place: str, taken: set[str]) -> str:
    """Return the first of ``<place>.half_0``, ``<place>.half_1``, … at which nothing lies."""
    index, stem = 0, f"{place}.half".lstrip(".")
    while resolves(graph_module, f"{stem}_{index}") or f"{stem}_{index}" in taken:
        index += 1
    return f"{stem}_{index}"


def _check_units(known: BranchUnits, units: tuple[int, ...]) -> None:
    if not units or min(units) < 0 or max(units) >= known.count:
        raise PassError(
            f"it has {known.count} units", where=known.site, fix=f"choose units from 0 to {known.count - 1}"
        )
    if list(units) != sorted(set(units)):
        raise PassError("the units are not ascending and distinct", where=known.site, fix="sort them")
