"""Every parameter of a model, whether growth can reach it, and if not, why."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch.fx as fx
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from fxgrow.files.table import NodeRow, SiteRow, Table, describe
from fxgrow.inspection.gathering import short_name
from fxgrow.inspection.quantities import count, glyphs_of, percent, plain_text, shape_text


@dataclass(frozen=True)
class ParameterRow:
    """One parameter and what growth makes of it."""

    name: str
    shape: tuple[int, ...]
    grows: bool  #: whether it belongs to a site that can grow, if only when that is included by name
    verdict: str  #: the same in words, with the reason


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model, as a rich renderable."""

    rows: tuple[ParameterRow, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield a table of the parameters, and which share of them can grow."""
        grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
        grid.add_column("parameter", overflow="fold")
        grid.add_column("shape", no_wrap=True)
        grid.add_column("can grow", overflow="fold")
        for row in self.rows:
            shape = shape_text(row.shape, glyphs_of(options)) or "a scalar"
            grid.add_row(plain_text(row.name), shape, plain_text(row.verdict), style=None if row.grows else "dim")
        yield grid
        yield Text()
        growing, every = (sum(prod(row.shape) for row in rows) for rows in (self._growing(), self.rows))
        yield Text(f"{count(growing)} of {count(every)} parameters ({percent(growing / max(every, 1))}) can grow")

    def _growing(self) -> list[ParameterRow]:
        return [row for row in self.rows if row.grows]


def render_parameters(model: Table | fx.GraphModule) -> Parameters:
    """Return all parameters that the graph reads, in its order; tied ones stand once. Nothing is executed.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
    """
    table = model if isinstance(model, Table) else describe(model)
    rows: dict[str, ParameterRow] = {}
    for node in table.nodes:
        for name, shape in node.parameters.items():
            found = _row(table, node, name, shape)
            if name not in rows or (found.grows and not rows[name].grows):
                rows[name] = found
    return Parameters(tuple(rows.values()))


def _row(table: Table, node: NodeRow, name: str, shape: tuple[int, ...]) -> ParameterRow:
    readers = [node] if node.op == "call_module" else list(_readers(table, node))
    sites = [reader.site for reader in readers if reader.site is not None]
    if sites:
        return ParameterRow(name, shape, sites[0].refusal is None, _verdict(sites[0]))
    return ParameterRow(name, shape, False, f"no, {_reason(table, readers)}")


def _verdict(site: SiteRow) -> str:
    if site.refusal is not None:
        return f"no, {site.refusal}"
    return f"yes, at {site.path}" if site.by_default else f"only if {site.path} is included by name"


def _readers(table: Table, node: NodeRow) -> Iterator[NodeRow]:
    """Yield what reads a parameter's value."""
    return (other for other in table.nodes if node.name in other.inputs)


def _reason(table: Table, readers: list[NodeRow]) -> str:
    if not readers:
        return "nothing reads it"
    first = readers[0]
    if first.op == "call_module" and first.target in table.record.trace_policy.get("leaves", ()):
        return f"{first.target} ({short_name(first.module_type)}) stays whole"
    kind = short_name(first.module_type or first.target)
    return f"it is read by {kind}, which is no linear map" if first.op != "call_module" else f"{kind} is no linear map"
