"""The outline of a table: a tree of modules, with pseudo-layers below the sites that grew."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import is_

from fxgrow.files.table import Table
from fxgrow.inspection.entries import RESIDUAL_EDGE, Entry, Kind, entries_of
from fxgrow.inspection.scores import ScoreSummary, blend, pool
from fxgrow.record.numbering import numbered
from fxgrow.record.provenance import ResidualEdge
from fxgrow.record.record import WAKING


@dataclass(frozen=True)
class Item:
    """One line of the outline and what hangs below it."""

    path: str  #: module path
    label: str  #: the part of the path that the parent does not say
    kind: Kind
    operation: str = ""
    shape: tuple[int, ...] | None = None
    parameters: int = 0  #: its own; for a container or a pseudo-layer, of all that lies in it
    depth: int = 0  #: how many pseudo-layers deep it is, at its deepest neuron
    grown_rows: tuple[int, int] | None = None  #: on a pseudo-layer or residual edge: rows served, and of how many
    remark: str | None = None  #: why nothing grows here
    scores: ScoreSummary | None = None
    alike: int = 1  #: how many blocks this item stands for
    children: tuple["Item", ...] = ()

    def walk(self) -> Iterator["Item"]:
        """Yield the item and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass
class _Branch:
    """A place in the tree while it is being built."""

    path: str
    entry: Entry | None = None
    branches: dict[str, "_Branch"] = field(default_factory=dict)


def outline(table: Table, *, everything: bool = False) -> Item:
    """Return the tree of a table's modules.

    Args:
        table: What to draw.
        everything: Also functions, and modules that hold no parameters and only pass values on.
    """
    sites, operators = pseudo_layer_sites(table), pseudo_layer_operators(table)
    root = _Branch("")
    for path, entry in entries_of(table, everything=everything).items():
        branch = root
        for ancestor, label in _ancestry(path, sites):
            branch = branch.branches.setdefault(label, _Branch(ancestor))
        branch.entry = entry
    return _item(root, table.name, operators, nesting=0)


def pseudo_layer_sites(table: Table) -> dict[str, str]:
    """Return the site that each pseudo-layer serves, by the pseudo-layer's path."""
    made = (row.provenance.part for row in table.nodes)
    return {part.path: part.site for part in made if isinstance(part, ResidualEdge)}


def pseudo_layer_operators(table: Table) -> dict[str, str]:
    """Return the operator of each pseudo-layer, from the growth history or else from the edit that made it."""
    growths = [growth for event in table.record.history for growth in event.growths]
    operators = {
        growth.path: growth.operator or growth.kind for growth in growths if growth.path and growth.kind != WAKING
    }
    for row in table.nodes:
        made = row.provenance
        if made.part is not None and made.part.path not in operators and 0 <= made.edit < len(table.record.edits):
            named = re.search(r'operator="?([\w-]+)', table.record.edits[made.edit])
            operators[made.part.path] = named.group(1) if named else "pseudo-layer"
    return operators


def _ancestry(path: str, sites: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return paths and labels from the top down to `path`; a pseudo-layer hangs below its site, whose name it drops."""
    parent, _, label = path.rpartition(".")
    if path in sites:
        parent = sites[path]
        label = path.removeprefix(f"{parent}_")
    return [*(_ancestry(parent, sites) if parent else []), (path, label)]


def _item(branch: _Branch, label: str, operators: Mapping[str, str], nesting: int) -> Item:
    layer = branch.path in operators
    nesting += layer
    ordered = sorted(branch.branches.items(), key=lambda named: _age(named[1], operators))
    children = tuple(_item(child, name, operators, nesting) for name, child in ordered)
    if layer:
        return _pseudo_layer(branch, label, operators[branch.path], children, nesting)
    entry = branch.entry
    if entry is None:
        return Item(branch.path, label, "container", parameters=_total(branch), children=children)
    if entry.kind == RESIDUAL_EDGE:
        layer_path = branch.path.removesuffix(f".{RESIDUAL_EDGE}")
        return Item(layer_path, label, entry.kind, entry.operation, entry.shape, grown_rows=entry.grown_rows)
    return Item(
        path=branch.path,
        label=label,
        kind=entry.kind,
        operation=entry.operation,
        shape=entry.shape,
        parameters=sum(entry.parameters.values()),
        depth=entry.site.depth if entry.site else 0,
        remark=_remark(entry),
        scores=entry.scores,
        children=children,
    )


def _remark(entry: Entry) -> str | None:
    refusal = entry.site.refusal if entry.site else entry.whole
    if refusal:
        return f"cannot grow: {refusal}"
    return "grows only if it is included by name" if entry.site and not entry.site.by_default else None


def _age(branch: _Branch, operators: Mapping[str, str]) -> tuple[bool, int]:
    """Sort pseudo-layers behind what else there is, the oldest first: the graph has the youngest first."""
    number = branch.path.rpartition("_")[2]
    return branch.path in operators, int(number) if branch.path in operators and number.isdigit() else 0


def _pseudo_layer(branch: _Branch, label: str, operator: str, children: tuple[Item, ...], nesting: int) -> Item:
    edge = next((child for child in children if child.kind == RESIDUAL_EDGE), None)
    return Item(
        path=branch.path,
        label=label,
        kind="pseudo-layer",
        operation=operator,
        parameters=_total(branch),
        depth=nesting,
        grown_rows=edge.grown_rows if edge else None,
        scores=blend([child.scores for child in children if child.scores]),
        children=children,
    )


def _total(branch: _Branch) -> int:
    return sum(_sizes(branch).values())


def _sizes(branch: _Branch) -> dict[str, int]:
    """Return the sizes of all parameters below a place, each once."""
    found = dict(branch.entry.parameters) if branch.entry else {}
    for child in branch.branches.values():
        found.update(_sizes(child))
    return found


def condense(item: Item) -> Item:
    """Make an outline short: chains of containers become one item, and so do blocks that are alike.

    Pseudo-layers lose the items below them, unless something grew in there or cannot.
    """
    children = _gather_alike([condense(child) for child in item.children])
    if item.kind == "pseudo-layer" and not any(
        below.kind == "pseudo-layer" or below.remark for child in children for below in child.walk()
    ):
        children = []
    unchanged = len(children) == len(item.children) and all(map(is_, children, item.children))
    condensed = item if unchanged else replace(item, children=tuple(children))
    if item.kind == "container" and item.path and len(children) == 1:
        only = children[0]
        return replace(only, label=f"{item.label}.{only.label}")
    return condensed


def _gather_alike(items: list[Item]) -> list[Item]:
    """Replace each run of numbered siblings that differ in their scores only by one item."""
    runs: list[list[Item]] = []
    last: tuple[object, ...] | None = None
    for item in items:
        number = numbered(item.label)
        signature = (number[0], *_signature(item)) if number else None
        if runs and signature is not None and signature == last:
            runs[-1].append(item)
        else:
            runs.append([item])
        last = signature
    return [_merge(run, _range_label(run)) if len(run) > 1 else run[0] for run in runs]


def _range_label(items: list[Item]) -> str:
    last = numbered(items[-1].label)
    return f"{items[0].label}-{last[1]}" if last else items[0].label


def _signature(item: Item, *, top: bool = True) -> tuple[object, ...]:
    """Return all of an item but its path, its scores, and the label of its top."""
    label = "" if top else item.label
    own = (label, item.kind, item.operation, item.shape, item.parameters, item.depth, item.grown_rows, item.remark)
    children = tuple(_signature(child, top=False) for child in item.children)
    return (*own, item.alike, item.scores is None, children)


def _merge(items: list[Item], label: str) -> Item:
    """Merge items of one signature into one that stands for all of them."""
    kind: Kind = "alike" if items[0].kind == "container" else items[0].kind
    return replace(_pooled(items), label=label, kind=kind, alike=len(items))


def _pooled(items: list[Item]) -> Item:
    """Return the first item with the scores of all, block by block, down to the leaves."""
    rows = zip(*(item.children for item in items), strict=True)
    children = tuple(_pooled(list(row)) for row in rows)
    return replace(items[0], scores=pool([item.scores for item in items]), children=children)
