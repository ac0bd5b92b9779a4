"""What a table may look like: types, ranges and sizes, held against a file before anything is made of it.

The types are those of `fxgrow.files.table.Table` and of the record, read by msgspec; `json_schema` spells them as JSON
Schema, which docs/file_schema.json publishes. What the types do not say is checked here: numbers are finite, nodes are
named once and read only nodes before them, provenance is whole, scores have one value for each neuron.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fxgrow.files.layout import TABLE
from fxgrow.files.table import NodeRow, Table, tensor_specs
from fxgrow.record.provenance import read_provenance

#: What a table may hold at most; a model of 100,000 nodes is ten times the largest that timm has.
MAX_NODES, MAX_DEPTH, MAX_TEXT = 100_000, 32, 1_000_000


def table_from_plain(plain: Any) -> Table:
    """Return the table that `fxgrow.files.plain.to_plain` made `plain` from.

    Raises:
        ValueError: If it is no table; the message says which field is wrong.
    """
    check_plain(plain)
    table = msgspec.convert(plain, Table)
    _check_nodes(table)
    _check_inputs(table)
    return table


def check_document(document: Mapping[str, Any]) -> None:
    """Check the parts of a file by their kinds and sizes, before the first of them is read through.

    Raises:
        ValueError: If a part is of another kind, or has too many nodes.
    """
    for part in (TABLE, "state_dict", "buffers", "checksums"):
        if not isinstance(document.get(part), dict):
            raise ValueError(f"its {part} is missing, or not a dict")
    nodes = document[TABLE].get("nodes")
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        raise ValueError(f"it has {len(nodes):,} nodes, and {MAX_NODES:,} is the limit")


def json_schema() -> dict[str, Any]:
    """Return the types of a table as JSON Schema (draft 2020-12)."""
    return msgspec.json.schema(Table)


class _UnfitError(Exception):
    """Something is not plain data. Its place is put together on the way out: where all is well that costs nothing."""

    def __init__(self, what: str) -> None:
        self.what, self.place = what, [""]


def check_plain(value: Any) -> None:
    """Check that a value is plain data: dicts with string keys, lists, strings, finite numbers of 64 bits, None.

    Raises:
        ValueError: If it is not; the message names the field.
    """
    try:
        _check(value, 0)
    except _UnfitError as unfit:
        raise ValueError(f"table{''.join(reversed(unfit.place))[:100]} {unfit.what}") from None


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is dict or kind is list:
        if depth > MAX_DEPTH:
            raise _UnfitError(f"is nested more than {MAX_DEPTH} deep")
        _check_items(value.items() if kind is dict else enumerate(value), kind, depth)
    elif kind is float:
        if not math.isfinite(value):
            raise _UnfitError(f"is {value}, not a finite number")
    elif kind is int:
        if not -(2**63) <= value < 2**63:
            raise _UnfitError("does not fit into 64 bits")
    elif kind is str:
        if len(value) > MAX_TEXT:
            raise _UnfitError(f"is longer than {MAX_TEXT:,} characters")
    elif value is not None and kind is not bool:
        raise _UnfitError(f"is a {kind.__qualname__}, which is not plain data")


def _check_items(items: Iterable[tuple[Any, Any]], kind: type, depth: int) -> None:
    key: Any = None
    try:
        for key, item in items:
            if kind is dict and type(key) is not str:
                raise ValueError("table has a key that is not a string")
            _check(item, depth + 1)
    except _UnfitError as unfit:
        unfit.place.append(f".{key[:60]}" if kind is dict else f"[{key}]")
        raise


def _check_nodes(table: Table) -> None:
    known: set[str] = set()
    for row in table.nodes:
        if row.name in known:
            raise ValueError(f"two nodes are named {row.name[:60]!r}")
        unknown = [name for name in row.inputs if name not in known]
        if unknown:
            raise ValueError(f"node {row.name[:60]!r} reads {unknown[0][:60]!r}, which no node before it is named")
        known.add(row.name)
        _check_provenance(row)
        _check_scores(row)


def _check_inputs(table: Table) -> None:
    for spec in table.inputs:
        for shape, dtype in tensor_specs(spec.value):
            sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
            if not sizes or not isinstance(dtype, str):
                raise ValueError(f"the input {spec.name[:60]!r} has no shape of whole numbers and a dtype")


def _check_provenance(row: NodeRow) -> None:
    try:
        read_provenance(row.annotation)
    except KeyError as error:
        raise ValueError(f"node {row.name[:60]!r} does not say all of its provenance: {error} is missing") from error


def _check_scores(row: NodeRow) -> None:
    scores = row.annotation.get("scores")
    if scores is None:
        return
    lengths = {len(value) for value in scores.values() if isinstance(value, list)}
    if row.site is None or lengths - {row.site.neurons}:
        raise ValueError(f"node {row.name[:60]!r} does not have one score for each of its neurons")
