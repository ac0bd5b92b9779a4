"""Every parameter of a model, whether growth can reach it, and if not, why."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from fxgrow.files.table import NodeRow, SiteRow
from fxgrow.inspection.document import Grid, Line, Part, parts
from fxgrow.inspection.entries import short_name
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.quantities import count, percent, plain_text, shape_text


@dataclass(frozen=True)
class ParameterRow:
    """One parameter and what growth makes of it."""

    name: str
    shape: tuple[int, ...]
    grows: bool  #: whether it belongs to a site that can grow, if only when that is included by name
    verdict: str  #: the same in words, with the reason


@dataclass(frozen=True)
class ParameterList:
    """The parameters of a model."""

    rows: tuple[ParameterRow, ...]


def list_parameters(model: Model) -> ParameterList:
    """Return all parameters that the graph reads, in its order; tied ones stand once. Nothing is executed.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
    """
    table = table_of(model)
    readers: dict[str, list[NodeRow]] = defaultdict(list)
    for node in table.nodes:
        for name in node.inputs:
            readers[name].append(node)
    rows: dict[str, ParameterRow] = {}
    for node in table.nodes:
        for name, shape in node.parameters.items():
            found = _row(node, [node] if node.op == "call_module" else readers[node.name], name, shape)
            if name not in rows or (found.grows and not rows[name].grows):
                rows[name] = found
    return ParameterList(tuple(rows.values()))


@parts.register
def _(view: ParameterList) -> Iterator[Part]:
    cells = [(plain_text(r.name), shape_text(r.shape) or "a scalar", plain_text(r.verdict)) for r in view.rows]
    faint = tuple(index for index, row in enumerate(view.rows) if not row.grows)
    yield Grid(("parameter", "shape", "can grow"), tuple(cells), faint=faint)
    yield Line()
    growing = sum(prod(row.shape) for row in view.rows if row.grows)
    every = sum(prod(row.shape) for row in view.rows)
    yield Line(f"{count(growing)} of {count(every)} parameters ({percent(growing / max(every, 1))}) can grow")


def _row(holder: NodeRow, readers: list[NodeRow], name: str, shape: tuple[int, ...]) -> ParameterRow:
    sites = [reader.site for reader in readers if reader.site is not None]
    if sites:
        return ParameterRow(name, shape, sites[0].refusal is None, _verdict(sites[0]))
    return ParameterRow(name, shape, False, f"no, {holder.whole or _reason(readers)}")


def _verdict(site: SiteRow) -> str:
    if site.refusal is not None:
        return f"no, {site.refusal}"
    return f"yes, at {site.path}" if site.by_default else f"only if {site.path} is included by name"


def _reason(readers: list[NodeRow]) -> str:
    if not readers:
        return "nothing reads it"
    first = readers[0]
    kind = short_name(first.module_type or first.target)
    return f"it is read by {kind}, which is no linear map" if first.op != "call_module" else f"{kind} is no linear map"
