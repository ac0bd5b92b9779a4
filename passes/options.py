"""The options of a pass as text: JSON values, read against the types of the pass's dataclass fields.

An option may be a str, an int, a float, a bool, a Literal, None, a union of these, a tuple of them or a mapping from
str to them, nested at will: what JSON spells without loss. A field with ``metadata={"data": True}`` is no option but
data (tensors, say) that a caller in Python may give: it has no text, must have a default and ``compare=False``, and is
not there when the edit log is replayed.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_SCALARS = (str, int, bool, NoneType)


@dataclass(frozen=True)
class Option:
    """One option of a pass, read off its dataclass field."""

    name: str
    kind: Any  #: the field's type
    required: bool
    default: object = None

    @property
    def type_name(self) -> str:
        """The type in the spelling of pipelines."""
        return type_name(self.kind)


def options_of(pass_class: type) -> dict[str, Option]:
    """Return the options of a pass by name, in the order of its fields.

    Example:
        >>> @dataclass(frozen=True)
        ... class Widen:
        ...     by: int
        ...     sites: tuple[str, ...] = ()
        >>> [f"{option.name}: {option.type_name}" for option in options_of(Widen).values()]
        ['by: int', 'sites: [str, ...]']
    """
    kinds = get_type_hints(pass_class)
    options = {}
    for field in dataclasses.fields(pass_class):
        if field.init and not field.metadata.get("data"):
            default = _default_of(field)
            required = default is dataclasses.MISSING
            options[field.name] = Option(field.name, kinds[field.name], required, None if required else default)
    return options


def misfit(one: object) -> str | None:
    """Say which option of a pass is none of the values that it may have; None where all are."""
    for option in options_of(type(one)).values():
        value = getattr(one, option.name)
        if get_origin(option.kind) is Literal and value not in get_args(option.kind):
            return f"{option.name}={value!r} is none of {type_name(option.kind)}"
    return None


def _default_of(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def spell_value(value: object) -> str:
    """Spell an option's value as JSON without spaces; tuples become lists.

    Raises:
        TypeError: If JSON cannot spell it.
    """
    return json.dumps(value, separators=(",", ":"), default=_as_dict)


def _as_dict(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def read_value(value: object, kind: Any) -> Any:
    """Turn a decoded JSON value into an option of type `kind`.

    Lists become tuples, and a float may be written as an int.

    Raises:
        TypeError: If the value does not fit.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for alternative in arguments:
            try:
                return read_value(value, alternative)
            except TypeError:
                continue
    elif origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
    elif origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(read_value(item, item_kind) for item, item_kind in zip(value, kinds, strict=True))
    elif origin in (Mapping, dict) and isinstance(value, dict):
        return {key: read_value(item, arguments[1]) for key, item in value.items()}
    elif kind is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    elif kind in _SCALARS and type(value) is kind:  # not isinstance: a bool is no int here
        return value
    raise TypeError(f"it wants {type_name(kind)}, not {spell_value(value)}")


def type_name(kind: Any) -> str:
    """Spell a type as the listing of passes shows it.

    Example:
        >>> type_name(tuple[int, ...]), type_name(float | None), type_name(Literal["even", "greedy"])
        ('[int, ...]', 'float | null', '"even" | "greedy"')
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " | ".join(type_name(alternative) for alternative in arguments)
    if origin is Literal:
        return " | ".join(spell_value(allowed) for allowed in arguments)
    if origin is tuple:
        return f"[{', '.join('...' if item is ... else type_name(item) for item in arguments)}]"
    if origin in (Mapping, dict):
        return f"{{str: {type_name(arguments[1])}}}"
    return "null" if kind is NoneType else str(getattr(kind, "__name__", kind))
