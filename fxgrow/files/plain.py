"""Tables as plain data: dicts, lists, strings and numbers, which `torch.load(weights_only=True)` and JSON both take."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fxgrow.errors import FileError


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
