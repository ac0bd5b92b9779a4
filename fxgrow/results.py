"""The folder that a run leaves: its model, its metrics by epoch, its settings and the command that repeats it."""

import csv
import os
import shlex
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxgrow.errors import FileError
from fxgrow.files import Table, read_table

MODEL, METRICS, RECIPE = "model.pt", "metrics.csv", "recipe.toml"

#: One line of the metrics: ``epoch``, ``parameters``, ``flops``, ``train_loss``, ``test_accuracy``, ... by name
Epoch = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """What is known of a run, as plain data: nothing of its model is imported or executed.

    A model file alone is a run of which nothing but the model is known.
    """

    name: str
    table: Table
    metrics: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)  #: by the name of the model, the grown first
    settings: Mapping[str, Any] = field(default_factory=dict)  #: by dotted name
    command: str = ""  #: what repeats the run; empty where no recipe was kept


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read the folder of a run, or a model file alone.

    Raises:
        FileError: If there is no model, or a file in the folder cannot be read.

    Example:
        >>> fxgrow.results.read_results("runs/demo").metrics["half-steps"][-1]["test_accuracy"]  # doctest: +SKIP
    """
    folder = Path(path)
    if not folder.is_dir():
        return Results(folder.name, _table(folder))
    table = _table(folder / MODEL)
    recipe = folder / RECIPE
    command = shlex.join(["fxgrow", "train", str(recipe)]) if recipe.exists() else ""
    return Results(folder.resolve().name, table, _metrics(folder / METRICS), _settings(recipe), command)


def _table(path: Path) -> Table:
    if not path.exists():
        fix = "name the folder of a run that grew, or a model file that fxgrow.save wrote"
        raise FileError("there is no such file", where=str(path), fix=fix)
    return read_table(path)


def _metrics(path: Path) -> dict[str, list[Epoch]]:
    """Read the metrics; a cell that is empty or no number says nothing."""
    found: dict[str, list[Epoch]] = defaultdict(list)
    for line in csv.DictReader(_lines(path)):
        numbers = {name: number for name, cell in line.items() if (number := _number(cell)) is not None}
        if "epoch" not in numbers:
            raise FileError("a line of it has no epoch", where=str(path), fix="write it again")
        found[line.get("model") or "model"].append(numbers)
    return dict(found)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"it cannot be read as text ({error})", where=str(path), fix="write it again") from error


def _number(cell: str | None) -> float | None:
    try:
        number = float(cell or "")
    except ValueError:
        return None
    return number if number - number == 0 else None  # neither nan nor infinite


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(_flat(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"it is not TOML ({error})", where=str(path), fix="mend it, or remove it") from error


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested tables as one list of dotted names and values."""
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs
