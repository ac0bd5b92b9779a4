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
#: What a table may spell, in characters and values, for each byte it takes in its file: a pickle may refer to one text,
#: or one list, any number of times. In files of real models it is 1.3.
MAX_SPELLED = 8
#: How often tensors may show the bytes of a file: each is read for its checksum.
MAX_SHOWN = 4
#: characters of JSON that one outside ASCII may take
_SPELLED = 12


def table_from_plain(plain: Any) -> Table:
    """Return the table that `fxgrow.files.plain.to_plain` made `plain` from, which is plain data (`check_plain`).

    Raises:
        ValueError: If it is no table; the message says which field is wrong.
    """
    table = msgspec.convert(plain, Table)
    _check_nodes(table)
    _check_inputs(table)
    return table


def check_document(document: Mapping[str, Any], size: int) -> None:
    """Check the parts of a file by their kinds and sizes, before anything is made of them.

    Args:
        document: The parts.
        size: The bytes that all but the tensors' numbers take in the file.

    Raises:
        ValueError: If a part is of another kind, the table has too many nodes or is not plain data (`check_plain`).
    """
    for part in (TABLE, "state_dict", "buffers", "checksums"):
        if not isinstance(document.get(part), dict):
            raise ValueError(f"its {part} is missing, or not a dict")
    check_table(document[TABLE], size)


def check_table(table: Mapping[str, Any], size: int) -> None:
    """Check the table of a file by its size and its kinds, before anything is made of it.

    Args:
        table: The table as it was read.
        size: The bytes that it was read from.

    Raises:
        ValueError: If it has too many nodes or is not plain data (`check_plain`).
    """
    nodes = table.get("nodes")
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        raise ValueError(f"it has {len(nodes):,} nodes, and {MAX_NODES:,} is the limit")
    check_plain(table, size)


def check_shown(shown: int, size: int) -> None:
    """Check that tensors, tied ones counted once, do not show the bytes of a file again and again in other shapes.

    Raises:
        ValueError: If `shown` bytes are many times the `size` of the file.
    """
    if shown > MAX_SHOWN * size:
        raise ValueError(f"its tensors show {shown:,} bytes, and the file has {size:,}")


def json_schema() -> dict[str, Any]:
    """Return the types of a table as JSON Schema (draft 2020-12)."""
    return msgspec.json.schema(Table)


class _UnfitError(Exception):
    """Something is not plain data. Its place is put together on the way out: where all is well that costs nothing."""

    def __init__(self, what: str) -> None:
        self.what, self.place = what, [""]


def check_plain(value: Any, size: int) -> None:
    """Check that a value is plain data: dicts with string keys, lists, strings, finite numbers of 64 bits, None.

    Args:
        value: What was read.
        size: The bytes that it was read from.

    Raises:
        ValueError: If it is not; the message names the field.
    """
    try:
        _Plainness(MAX_SPELLED * size).check(value, 0)
    except _UnfitError as unfit:
        raise ValueError(f"table{''.join(reversed(unfit.place))[:100]} {unfit.what}") from None


class _Plainness:
    """Goes through a value, as long as it does not spell more than it may."""

    def __init__(self, room: int) -> None:
        self.room = room

    def check(self, value: Any, depth: int) -> None:
        kind = type(value)
        self.room -= 1
        if kind is dict or kind is list:
            if depth > MAX_DEPTH:
                raise _UnfitError(f"is nested more than {MAX_DEPTH} deep")
            self._check_items(value.items() if kind is dict else enumerate(value), kind, depth)
        elif kind is float:
            if not math.isfinite(value):
                raise _UnfitError(f"is {value}, not a finite number")
        elif kind is int:
            if not -(2**63) <= value < 2**63:
                raise _UnfitError("does not fit into 64 bits")
        elif kind is str:
            self._check_text(value)
        elif value is not None and kind is not bool:
            raise _UnfitError(f"is a {kind.__qualname__}, which is not plain data")

    def _check_text(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise _UnfitError(f"is longer than {MAX_TEXT:,} characters")
        self.room -= len(text) if text.isascii() else _SPELLED * len(text)
        if self.room < 0:
            raise _UnfitError("repeats itself beyond measure")

    def _check_items(self, items: Iterable[tuple[Any, Any]], kind: type, depth: int) -> None:
        key: Any = None
        try:
            for key, item in items:
                if kind is dict:
                    if type(key) is not str:
                        raise ValueError("table has a key that is not a string")
                    self._check_text(key)
                self.check(item, depth + 1)
            if self.room < 0:
                raise _UnfitError("repeats itself beyond measure")
        except _UnfitError as unfit:
            unfit.place.append(f".{key[:60]}" if kind is dict and isinstance(key, str) else f"[{key}]")
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
