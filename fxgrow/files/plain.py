"""Tables as plain data: dicts, lists, strings and numbers, which `torch.load(weights_only=True)` and JSON both take."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fxgrow.errors import FileError
from fxgrow.files.table import InputSpec, NodeRow, SiteRow, Table
from fxgrow.record.record import GrowthEvent, Origin, Record, SiteGrowth


def to_plain(value: Any, where: str = "the model's record") -> Any:
    """Return `value` as plain data: dataclasses as dicts, sequences as lists, scalars of arrays as numbers.

    Raises:
        FileError: If it holds anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return _plain_scalar(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name), name) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item, where) for item in value]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return to_plain(value.item(), where)
    raise FileError(
        f"it holds a {type(value).__qualname__}, which is not plain data",
        where=where,
        fix="give numbers, strings, lists and dicts",
    )


def _plain_scalar(value: Any) -> Any:
    """Strip subclasses, such as numpy.float64 and enumerations, that an unpickler would have to import."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def table_from_plain(plain: Mapping[str, Any]) -> Table:
    """Return the table that `to_plain` made `plain` from.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If `plain` is no table.
    """
    return Table(
        **{
            **plain,
            "inputs": tuple(_input_spec(item) for item in plain["inputs"]),
            "nodes": tuple(_node_row(item) for item in plain["nodes"]),
            "record": record_from_plain(plain["record"]),
            "other_mode": tuple(plain["other_mode"]),
            "frozen": tuple(plain["frozen"]),
        }
    )


def _input_spec(plain: Mapping[str, Any]) -> InputSpec:
    seen = plain["integers"]
    return InputSpec(**{**plain, "integers": None if seen is None else (seen[0], seen[1])})


def _node_row(plain: Mapping[str, Any]) -> NodeRow:
    site = plain["site"]
    return NodeRow(
        **{
            **plain,
            "inputs": tuple(plain["inputs"]),
            "shape": _shape(plain["shape"]),
            "parameters": {name: tuple(shape) for name, shape in plain["parameters"].items()},
            "site": None if site is None else _site_row(site),
        }
    )


def _site_row(plain: Mapping[str, Any]) -> SiteRow:
    return SiteRow(**{**plain, "depths": tuple((depth, neurons) for depth, neurons in plain["depths"])})


def _shape(plain: list[int] | None) -> tuple[int, ...] | None:
    return None if plain is None else tuple(plain)


def record_from_plain(plain: Mapping[str, Any]) -> Record:
    """Return the record that `to_plain` made `plain` from."""
    origin = plain["origin"]
    return Record(
        **{
            **plain,
            "origin": None if origin is None else Origin(**origin),
            "trace_notes": tuple(plain["trace_notes"]),
            "edits": tuple(plain["edits"]),
            "history": tuple(_event(item) for item in plain["history"]),
            "new_parameters": tuple(plain["new_parameters"]),
        }
    )


def _event(plain: Mapping[str, Any]) -> GrowthEvent:
    return GrowthEvent(**{**plain, "sites": tuple(SiteGrowth(**site) for site in plain["sites"])})
