"""Inputs of a model as plain data, and values of the same shapes and kinds made from it again.

A class is named in a file by its module, but nothing is imported for it and none of its code is run: a dataclass, a
named tuple or a mapping is looked up among what the program has loaded. For any other class, and for what is not there,
a stand-in with the same fields takes its place.
"""

import enum
import re
import sys
from collections import OrderedDict, UserDict
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, make_dataclass
from typing import Any

import torch
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import FileError
from fxgrow.execution.structures import parts_of

Build = Callable[[tuple[int, ...], str], Any]
_PLAIN = (bool, int, float, str)
_OF_TORCH = {"torch.dtype": lambda name: getattr(torch, name), "torch.device": torch.device}


def to_spec(value: Any) -> Any:
    """Return the plain description of an input: ``{"shape": [...], "dtype": "float32"}`` in place of each tensor.

    A tuple is a list; any other structure is ``{"type": ..., "items": [[key, value], ...]}``, and a constant that is no
    plain number or text ``{"type": ..., "name": ...}``.

    Raises:
        FileError: If it holds something that a file cannot.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, TensorMetadata):
        return {"shape": [int(size) for size in value.shape], "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, torch.dtype | torch.device):
        return {"type": f"torch.{type(value).__name__}", "name": str(value).removeprefix("torch.")}
    if isinstance(value, enum.Enum):
        return {"type": _spelled(type(value)), "name": value.name}
    parts = parts_of(value)
    if parts is None or not all(isinstance(key, int | str) for key in parts):
        fix = "give forward a default for it, and leave it out"
        raise FileError(
            f"a {type(value).__qualname__} among its inputs cannot be held by a file", where="the model", fix=fix
        )
    if type(value) is tuple:
        return [to_spec(part) for part in parts.values()]
    return {"type": _spelled(type(value)), "items": [[key, to_spec(part)] for key, part in parts.items()]}


def from_spec(spec: Any, build: Build) -> Any:
    """Return an input as `to_spec` described it, with tensors made by ``build(shape, dtype)``.

    Raises:
        FileError: If a constant belongs to a class that is not loaded.
    """
    if isinstance(spec, list):
        return tuple(from_spec(item, build) for item in spec)
    if not isinstance(spec, dict):
        return spec
    if set(spec) == {"shape", "dtype"}:
        return build(tuple(spec["shape"]), spec["dtype"])
    if set(spec) == {"type", "name"}:
        return _constant(spec["type"], spec["name"])
    if set(spec) == {"type", "items"}:
        return _structure(spec["type"], {key: from_spec(item, build) for key, item in spec["items"]})
    return {key: from_spec(item, build) for key, item in spec.items()}


def _spelled(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _loaded(name: str) -> type | None:
    """Return a class by its name if the program has loaded it."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _constant(kind: str, name: str) -> Any:
    if kind in _OF_TORCH:
        return _OF_TORCH[kind](name)
    loaded = _loaded(kind)
    if loaded is None or not issubclass(loaded, enum.Enum) or name not in loaded.__members__:
        what = f"an input of its model is {name} of {kind}, which is not loaded"
        raise FileError(what, where="the model", fix=f"import {kind.partition(':')[0]} first")
    return loaded[name]


def _structure(kind: str, items: Mapping[Any, Any]) -> Any:
    """Make a structure without running the code of its class."""
    loaded = _loaded(kind)
    if loaded is list:
        return list(items.values())
    if loaded is None or hasattr(loaded, "__del__"):
        return _stand_in(kind, items)
    if issubclass(loaded, tuple):
        return tuple.__new__(loaded, items.values())
    if issubclass(loaded, dict):
        builtin: type[dict[Any, Any]] = OrderedDict if issubclass(loaded, OrderedDict) else dict
        mapping = builtin.__new__(loaded)
        for key, item in items.items():
            builtin.__setitem__(mapping, key, item)
        return _with_fields(mapping, items) if is_dataclass(loaded) else mapping
    if issubclass(loaded, UserDict):
        return _with_fields(object.__new__(loaded), {"data": dict(items)})
    return _with_fields(object.__new__(loaded), items) if is_dataclass(loaded) else _stand_in(kind, items)


def _with_fields(instance: Any, fields: Mapping[str, Any]) -> Any:
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def _stand_in(kind: str, items: Mapping[Any, Any]) -> Any:
    if not all(isinstance(key, str) and key.isidentifier() for key in items):
        return dict(items)
    return make_dataclass(re.split("[.:]", kind)[-1], list(items))(**items)
