"""Recipes: TOML to settings and back. What does not fit is refused in one line that names the setting."""

import ast
import dataclasses
import itertools
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fxgrow.errors import FileError, SettingsError, did_you_mean
from fxgrow.runs.settings import Settings

_FOLDER = Path(__file__).parent / "recipes"
_WORDS = {"true": True, "false": False, "none": None}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with fxgrow."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def recipe_summary(name: str) -> str:
    """Return what the comment at the head of a recipe says."""
    lines = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line[:1] == "#", lines))


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a recipe.

    Args:
        name: A TOML file, or the name of a recipe that comes with fxgrow.
        changes: Values in place of the recipe's, by dotted names, as in ``{"optimizer.rate": 1e-3}``.

    Raises:
        FileError: If there is no such recipe, or it is no TOML.
        SettingsError: If a setting does not fit.

    Example:
        >>> read_recipe("digits", {"epochs": 8}).epochs
        8
    """
    own = _FOLDER / f"{name}.toml"
    path = own if name in recipe_names() else Path(name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(recipe_names())
        fix = f"{did_you_mean(name, recipe_names())}give a TOML file, or one of {known}"
        raise FileError(f"it cannot be read ({error.strerror})", where=name, fix=fix) from error
    except ValueError as error:
        raise FileError(f"it is no TOML ({error})", where=name, fix="mend that line") from error
    try:
        return settings_from(override(document, changes or {}), where=name)
    except RecursionError as error:
        raise FileError("its tables lie too deep in each other", where=name, fix="name settings of a recipe") from error


def settings_from(document: Mapping[str, Any], *, where: str = "") -> Settings:
    """Return the settings that a TOML document says; what it leaves out has its default.

    Raises:
        SettingsError: If a setting does not fit.
    """
    prefix = f"{where}: " if where else ""
    _check_names(document, Settings, prefix)
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        setting = place.strip("`").removeprefix("$").lstrip(".").replace("[...]", "") or "the recipe"
        value = _value_at(document, setting)
        fix = "give it a value of that kind"
        raise SettingsError(f"{value!r} does not fit: {what.lower()}", where=f"{prefix}{setting}", fix=fix) from error


def override(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a document in which some settings, by dotted names, have other values; None takes one out.

    Example:
        >>> override({"growth": {"budget": 0.5}}, {"growth.budget": 0.3, "seed": 1})
        {'growth': {'budget': 0.3}, 'seed': 1}
    """
    changed = {key: override(value, {}) if isinstance(value, Mapping) else value for key, value in document.items()}
    for name, value in changes.items():
        *tables, key = name.split(".")
        table = changed
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise SettingsError(f"{part} is no table", where=name, fix="leave out what stands behind it")
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    return changed


def parse_changes(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs with dotted keys; values are Python literals, or else strings; `none` takes one out.

    Example:
        >>> parse_changes(["growth.budget=0.3", "data.source=digits", "stages.depth=(0.25, 0.5)", "compile=false"])
        {'growth.budget': 0.3, 'data.source': 'digits', 'stages.depth': (0.25, 0.5), 'compile': False}

    Raises:
        SettingsError: If one has no key or no value.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise SettingsError("it is no setting", where=f"--set {pair}", fix="write --set table.key=value")
        changes[key] = literal(value)
    return changes


def as_toml(settings: Settings) -> str:
    """Return the recipe that says these settings, all of them.

    Raises:
        SettingsError: If the package that writes TOML is not installed.
    """
    try:
        import tomli_w
    except ImportError as error:
        fix = "pip install 'fxgrow[train]'"
        raise SettingsError("tomli-w, which writes recipes, is not installed", where="the recipe", fix=fix) from error
    return tomli_w.dumps(_without_none(dataclasses.asdict(settings)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def literal(text: str) -> Any:
    """Return the Python literal that a text spells, or else the text.

    Example:
        >>> literal("3e-4"), literal("cpu"), literal("none")
        (0.0003, 'cpu', None)
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_names(document: Mapping[str, Any], kind: Any, prefix: str, table: str = "") -> None:
    """Refuse settings that there are not; msgspec would pass over them."""
    hints = typing.get_type_hints(kind)
    fields = {item.name: hints[item.name] for item in dataclasses.fields(kind)}
    for name, value in document.items():
        if name not in fields:
            inside = f"[{table}] has" if table else "a recipe has"
            fix = f"{did_you_mean(name, fields)}{inside} {', '.join(fields)}"
            raise SettingsError("there is no such setting", where=f"{prefix}{_dotted(table, name)}", fix=fix)
        inner = _table_of(fields[name])
        if inner is not None and isinstance(value, Mapping):
            _check_names(value, inner, prefix, name)


def _table_of(hint: Any) -> type | None:
    """Return the dataclass that a field holds, if it holds one."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def _dotted(table: str, name: str) -> str:
    return f"{table}.{name}" if table else name


def _value_at(document: Any, setting: str) -> Any:
    """Return what a document says at a dotted name with indices, as in ``growth.at[0]``."""
    for key in re.findall(r"[^.\[\]]+", setting):
        try:
            document = document[int(key) if key.isdecimal() else key]
        except (KeyError, IndexError, TypeError):
            break
    return document
