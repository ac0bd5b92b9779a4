"""What a table may look like: types, ranges and sizes, held against a file before anything is made of it.

The types are those of `fxgrow.files.table.Table` and of the record, read by msgspec; `json_schema` spells them as JSON
Schema, which docs/file_schema.json publishes. What the types do not say is checked here: numbers are finite, nodes are
named once and read only nodes before them, provenance is whole, scores have one value for each neuron.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from fxgrow.files.layout import TABLE
from fxgrow.files.table import NodeRow, Table
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
    _check_inputs(table)
    _check_nodes(table)
    return table


def check_document(document: Mapping[str, Any]) -> None:
    """Check the parts of a file by their kinds and sizes, before the first of them is read through.

    Raises:
        ValueError: If a part is of another kind, has too many nodes, or has a tensor that is larger than its bytes.
    """
    for part in (TABLE, "state_dict", "buffers", "checksums"):
        if not isinstance(document.get(part), dict):
            raise ValueError(f"its {part} is missing, or not a dict")
    nodes = document[TABLE].get("nodes")
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        raise ValueError(f"it has {len(nodes):,} nodes, and {MAX_NODES:,} is the limit")
    for name, tensor in [*document["state_dict"].items(), *document["buffers"].items()]:
        _check_tensor(name, tensor)


def _check_tensor(name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"its state holds {str(name)[:60]!r}, a {type(tensor).__qualname__}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"the tensor {name[:60]!r} is not a plain one on the CPU")
    if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
        raise ValueError(f"the tensor {name[:60]!r} of {tensor.numel():,} numbers does not fill its bytes")


def json_schema() -> dict[str, Any]:
    """Return the types of a table as JSON Schema (draft 2020-12)."""
    return msgspec.json.schema(Table)


def check_plain(value: Any, where: str = "table", depth: int = 0) -> None:
    """Check that a value is plain data: dicts with string keys, lists, strings, finite numbers of 64 bits, None.

    Raises:
        ValueError: If it is not; the message names the field.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where[:100]} is nested more than {MAX_DEPTH} deep")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{where} has a key that is not a string")
            check_plain(item, f"{where}.{key[:60]}", depth + 1)
    elif type(value) is list:
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]", depth + 1)
    else:
        _check_scalar(value, where)


def _check_scalar(value: Any, where: str) -> None:
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, not a finite number")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} does not fit into 64 bits")
    if type(value) is str and len(value) > MAX_TEXT:
        raise ValueError(f"{where} is longer than {MAX_TEXT:,} characters")
    if value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"{where} is a {type(value).__qualname__}, which is not plain data")


def _check_inputs(table: Table) -> None:
    for given in table.inputs:
        for shape, dtype in given.tensors:
            if not all(type(size) is int and size >= 0 for size in shape) or not isinstance(dtype, str):
                raise ValueError(f"input {given.name[:60]!r} has a tensor that is not described by sizes and a dtype")


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
