"""The sites of a model as a list: sizes, depth, whether they can grow, and what their scores say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from fxgrow.errors import FxgrowError, did_you_mean
from fxgrow.files.table import NodeRow, SiteRow, Table
from fxgrow.inspection.document import Grid, Line, Part, parts
from fxgrow.inspection.entries import short_name
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.quantities import percent, plain_text, two_digits
from fxgrow.inspection.scores import ScoreSummary, summarise
from fxgrow.inspection.selection import EVERYTHING, Selection, narrow


@dataclass(frozen=True)
class SiteScore:
    """The scores of one site in a few numbers."""

    score: str
    matrix: str
    extreme: float  #: what asks for growth most strongly: the least eigenvalue
    median: float
    significant: int  #: neurons whose held-out score asks for growth by 2 standard errors
    stale: bool  #: whether they were measured on another graph, as before the last growth
    urgency: float  #: the extreme, with the sign that makes a larger one ask for growth


@dataclass(frozen=True)
class SiteEntry:
    """One site."""

    path: str
    operation: str
    neurons: int
    features: int
    parameters: int
    depth: int  #: of its deepest neuron: 0 where nothing grew
    grown: int  #: neurons with a pseudo-layer
    by_default: bool  #: whether it grows without being asked for
    refusal: str | None  #: why it cannot grow
    pseudo_layer: str | None  #: the pseudo-layer that the site is part of
    scores: SiteScore | None


@dataclass(frozen=True)
class SiteList:
    """The sites of a model, in the order that was asked for."""

    sites: tuple[SiteEntry, ...]


#: what to sort by, and the key: the first of the list is what one looks for
ORDERS: dict[str, Callable[[SiteEntry], Any]] = {
    "score": lambda site: -site.scores.urgency if site.scores else float("inf"),
    "name": lambda site: site.path,
    "depth": lambda site: -site.depth,
    "neurons": lambda site: -site.neurons,
    "parameters": lambda site: -site.parameters,
}


def list_sites(model: Model, selection: Selection = EVERYTHING, *, order: str | None = None) -> SiteList:
    """Return the sites of a model.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        selection: Which of them.
        order: A key of `ORDERS`; None for the order of the graph.

    Raises:
        FxgrowError: If there is no such order, or nothing is selected.
    """
    entries = site_entries(narrow(table_of(model), selection))
    if order is None:
        return SiteList(tuple(entries))
    if order not in ORDERS:
        fix = f"{did_you_mean(order, ORDERS)}choose from {', '.join(ORDERS)}"
        raise FxgrowError("sites cannot be sorted by it", where=f"--sort {order}", fix=fix)
    return SiteList(tuple(sorted(entries, key=ORDERS[order])))


def site_entries(table: Table) -> Iterator[SiteEntry]:
    """Yield the sites of a table in the order of its graph; a site that is called twice is one."""
    rows = {row.name: row for row in table.nodes}
    seen: set[str] = set()
    for row in table.nodes:
        if row.site is not None and row.site.path not in seen:
            seen.add(row.site.path)
            yield _entry(row, row.site, rows, table.digest)


def _entry(row: NodeRow, site: SiteRow, rows: dict[str, NodeRow], digest: str) -> SiteEntry:
    read = [row] if row.op == "call_module" else [rows[name] for name in row.inputs if rows[name].op == "get_attr"]
    part = row.provenance.part
    scores = summarise(row.annotation.get("scores"), digest)
    return SiteEntry(
        path=site.path,
        operation=short_name(row.module_type or row.target),
        neurons=site.neurons,
        features=site.features,
        parameters=sum(prod(shape) for source in read for shape in source.parameters.values()),
        depth=site.depth,
        grown=sum(neurons for depth, neurons in site.depths if depth > 0),
        by_default=site.by_default,
        refusal=site.refusal,
        pseudo_layer=part.path if part else None,
        scores=_score(scores) if scores else None,
    )


def _score(scores: ScoreSummary) -> SiteScore:
    extreme, significant = scores.extreme, sum(scores.significant)
    urgency = scores.sign * extreme
    return SiteScore(scores.score, scores.matrix, extreme, scores.median, significant, scores.stale, urgency)


@parts.register
def _(view: SiteList) -> Iterator[Part]:
    headings = ("site", "neurons", "depth", "score", "significant", "can grow")
    right = headings[1:5]
    faint = tuple(index for index, site in enumerate(view.sites) if site.refusal is not None)
    yield Grid(headings, tuple(map(_cells, view.sites)), right, faint)
    yield Line()
    yield Line(f"{len(view.sites)} site{'s' if len(view.sites) != 1 else ''}")
    if any(site.refusal is None and not site.by_default for site in view.sites):
        yield Line("by name: grows only if it is included by name", "quiet")


def _cells(site: SiteEntry) -> tuple[str, ...]:
    scores = site.scores
    can_grow = (site.refusal and f"no, {site.refusal}") or ("yes" if site.by_default else "by name")
    return (
        plain_text(site.path),
        f"{site.neurons}",
        str(site.depth or ""),
        two_digits(scores.extreme) if scores else "",
        percent(scores.significant / max(site.neurons, 1)) if scores else "",
        plain_text(can_grow),
    )
