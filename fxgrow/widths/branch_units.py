"""Hidden units of residual branches, and heads: what can be given half-steps of its own.

A branch whose last operation that is not a mere scale is a linear map is a sum over the units that the map reads,

    f(x) = b + sum_u W_u h_u(x),

so that half of a unit's outgoing weights W_u is half of what it adds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.branch_ends import BranchEnds
from fxgrow.graph.interiors import Interiors
from fxgrow.graph.residual import Ancestry, ResidualStep, find_steps, is_sum
from fxgrow.graph.sites import Site
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.primitives.residual import add_rows
from fxgrow.record.facts import kept
from fxgrow.record.location import name_of
from fxgrow.widths.axes import Axis, leaves
from fxgrow.widths.hidden_units import Units
from fxgrow.widths.layout_analysis import find_layouts
from fxgrow.widths.resizing import plan_resizing


@dataclass(frozen=True, eq=False)
class Branch:
    """A residual branch on its way from the entry of its step to the sum."""

    step: ResidualStep
    value: fx.Node  #: what is added
    nodes: tuple[fx.Node, ...]  #: that make it, itself among them, with what only they read
    junction: fx.Node  #: the sum at which it meets what the entry leads to
    sides: tuple[fx.Node, fx.Node]  #: of the junction: the entry's and the branch's


@dataclass(frozen=True, eq=False)
class BranchUnits:
    """The hidden units, or the heads, of one residual branch."""

    site: str  #: the first of the sites whose rows they are made of
    branch: Branch
    axis: Axis
    place: int  #: of the axis among those of the site's rows
    rows: Mapping[str, Tensor]  #: for each of these sites, the unit of each row ``(neurons,)``
    last: Site  #: the map that reads them, which ends the branch
    columns: Tensor  #: the unit of each of its input channels ``(in_channels,)``
    fixed: int  #: parameters of a thin branch besides those of its units: norms, and the bias at the end
    each: int  #: parameters of one unit

    @property
    def count(self) -> int:
        """The number of units."""
        return self.axis.size

    def price(self, units: int) -> int:
        """Return how many parameters a half-step of so many units adds."""
        return self.fixed + units * self.each

    def rows_of(self, units: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return which rows of each site some units are made of."""
        chosen = torch.tensor(units)
        return {site: tuple(torch.isin(owner, chosen).nonzero()[:, 0].tolist()) for site, owner in self.rows.items()}


@dataclass(frozen=True, eq=False)
class UnitsOfBranches:
    """The units of all branches by their site, and for every other site the reason why its rows are none."""

    found: Mapping[str, BranchUnits]
    refusals: Mapping[str, str]


@kept(notes=True)
def find_branch_units(graph_module: fx.GraphModule) -> UnitsOfBranches:
    """Find the hidden units and the heads of all residual branches.

    Raises:
        PassError: If the shapes of the values are not known.
    """
    return _Finder(graph_module).find()


class _NoUnitsError(Exception):
    """Why the rows of a site are no units."""


@dataclass
class _Finder:
    graph_module: fx.GraphModule
    found: dict[str, BranchUnits] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def find(self) -> UnitsOfBranches:
        self.layouts = find_layouts(self.graph_module)
        self.ancestry = Ancestry(self.graph_module.graph)
        self.ends = BranchEnds(self.graph_module, self.ancestry)
        branches = sorted(self._branches(), key=lambda branch: len(branch.nodes))
        for path, site in self.layouts.sites.items():
            try:
                self._add(site, branches)
            except _NoUnitsError as refusal:
                self.refusals[path] = str(refusal)
        return UnitsOfBranches(self.found, self.refusals)

    def _branches(self) -> Iterator[Branch]:
        interiors = Interiors(self.graph_module, self.ancestry)
        for step in find_steps(self.graph_module, self.ancestry).values():
            for value in (term for branch in step.branches for term in self._terms(branch)):
                junction = self._junction(step, value)
                if junction is not None:
                    yield Branch(step, value, interiors.between(step.entry, value), *junction)

    def _terms(self, branch: fx.Node) -> Iterator[fx.Node]:
        """Take apart a branch that is a sum of several side by side."""
        parts = self._parts(branch)
        beside = not any(self.ancestry.depends(one, other) for one in parts for other in parts)
        if parts and beside and len(branch.users) == 1:
            for part in parts:
                yield from self._terms(part)
        else:
            yield branch

    def _junction(self, step: ResidualStep, branch: fx.Node) -> tuple[fx.Node, tuple[fx.Node, fx.Node]] | None:
        """Go down from a step's sum to the addition that has the branch on one side and the entry on the other."""
        junction = step.total
        while parts := self._parts(junction):
            first, second = parts
            inner = first is branch or self._adds_up(first, branch)
            own, other = (first, second) if inner else (second, first)
            if other is step.entry or self._adds_up(other, step.entry):
                return junction, (other, own)
            junction = own
        return None

    def _adds_up(self, value: fx.Node, term: fx.Node) -> bool:
        """Say whether a value is a sum of which `term` is a part, or the term, passed on."""
        while value is not term and value.op == "call_module" and isinstance(self._module(value), nn.Identity):
            value = value.all_input_nodes[0]
        return value is term or any(self._adds_up(part, term) for part in self._parts(value))

    def _parts(self, value: fx.Node) -> list[fx.Node]:
        """Return the two sides of a sum; nothing for any other value."""
        summed = is_sum(self.ends.operations, value)
        return [part for part in value.args[:2] if isinstance(part, fx.Node)] if summed else []

    def _module(self, node: fx.Node) -> nn.Module:
        return self.graph_module.get_submodule(str(node.target))

    def _add(self, site: Site, branches: list[Branch]) -> None:
        if site.refusal:
            raise _NoUnitsError(site.refusal)
        if len(site.calls) > 1:
            raise _NoUnitsError(f"it is called {len(site.calls)} times")
        branch = next((branch for branch in branches if site.calls[0] in branch.nodes), None)
        if branch is None:
            raise _NoUnitsError("it lies in no residual branch")
        if branch.junction.target is add_rows and branch.junction.args[2:3] not in ((), (None,)):
            raise _NoUnitsError("it lies in a pseudo-layer")
        axis = self._axis(site, branch)
        known = next((units for units in self.found.values() if units.axis is axis), None)
        if known is not None:
            raise _NoUnitsError(f"its rows belong to the units of {known.site}")
        self.found[site.path] = self._units(site, axis, branch)

    def _axis(self, site: Site, branch: Branch) -> Axis:
        """Return the axis of a site's units: the heads in an attention, else the hidden units."""
        axes = leaves(self.layouts.rows[site.path])
        attends = any(product.node in branch.nodes for product in self.layouts.contractions)
        candidates = axes[-2:-1] if attends else axes[-2:]
        for axis in candidates:
            if not axis.frozen:
                return axis
        reasons = [axis.frozen for axis in (*candidates, *axes[-1:]) if axis.frozen]
        raise _NoUnitsError(f"its width cannot change: {(reasons or ['it has one head or row'])[0]}")

    def _units(self, site: Site, axis: Axis, branch: Branch) -> BranchUnits:
        last = self._last(axis, branch)
        sites = {path: dim for path, dim in self.layouts.rows.items() if axis in leaves(dim)}
        for path in sites:
            if self.layouts.sites[path].calls[0] not in branch.nodes:
                raise _NoUnitsError(f"its units are those of {path} too, outside its residual branch")
        fixed, each = self._sizes(axis, branch)
        rows = {path: _owners(leaves(dim), axis) for path, dim in sites.items()}
        place = leaves(self.layouts.rows[site.path]).index(axis)
        columns = _owners(leaves(self.layouts.columns[last.path]), axis)
        return BranchUnits(site.path, branch, axis, place, rows, last, columns, fixed, each)

    def _last(self, axis: Axis, branch: Branch) -> Site:
        """Return the only map that reads the units, checked to end the branch."""
        readers = [path for path, dim in self.layouts.columns.items() if axis in leaves(dim)]
        if len(readers) != 1:
            raise _NoUnitsError(f"its units are read by {' and '.join(readers) or 'no linear map'}")
        last = self.layouts.sites[readers[0]]
        if last.calls[0] not in branch.nodes:
            raise _NoUnitsError(f"{last.path}, which reads its units, lies outside its residual branch")
        behind = self.ends.obstacle(branch.value, last.calls[0])
        if behind is not None:
            raise _NoUnitsError(f"{name_of(behind)} stands between {last.path}, which reads its units, and the sum")
        return last

    def _sizes(self, axis: Axis, branch: Branch) -> tuple[int, int]:
        """Return how many parameters of a branch are not of its units, and how many each unit has."""
        one = torch.ones(1, dtype=torch.float64)
        of_units = plan_resizing(self.layouts, {axis: Units(torch.zeros(1, dtype=torch.long), one, one)}).steps
        parameters = parameters_read(self.graph_module, branch.nodes)
        total = sum(value.numel() for value in parameters.values())
        resized = sum(value.numel() for name, value in parameters.items() if name in of_units)
        return total - resized, resized // axis.size


def parameters_read(graph_module: fx.GraphModule, nodes: tuple[fx.Node, ...]) -> dict[str, nn.Parameter]:
    """Return the parameters that nodes hold or read, by name."""
    found: dict[str, nn.Parameter] = {}
    for node in nodes:
        if node.op == "call_module":
            found |= dict(graph_module.get_submodule(str(node.target)).named_parameters(str(node.target)))
        elif node.op == "get_attr":
            value = fetch_attribute(graph_module, str(node.target))
            found |= {str(node.target): value} if isinstance(value, nn.Parameter) else {}
    return found


def _owners(axes: tuple[Axis, ...], axis: Axis) -> Tensor:
    """Return for each row of a site the position along one of its axes."""
    sizes = [own.size for own in axes]
    shape = [size if own is axis else 1 for own, size in zip(axes, sizes, strict=True)]
    return torch.arange(axis.size).reshape(shape).expand(sizes).flatten()
