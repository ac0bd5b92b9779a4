"""The page's section on saddles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from study import jsonl
from study.analysis import mean_and_error
from study.saddles import ALONG
from study.tables import table

_HEAD = ("arm", "steps after the snapshot", "test loss", "least, median", "held out, median", "significant", "model")
_HEAD += ("along v, probe", "along v, test", "down the gradient, test")

#: for each arm its steps and, at each, every number of all seeds, (seeds, ...)
Seen = dict[str, list[tuple[int, dict[str, np.ndarray]]]]
_NUMBERS = ("loss", "least", "held_out", "significant", "model_least", "model_greatest")
_CURVES = ("escape_probe", "escape_test", "gradient_test")


def seen(folder: Path) -> Seen:
    """Return what is recorded."""
    cells: dict[tuple[str, int], list[jsonl.Row]] = {}
    for row in jsonl.read(folder / "saddles" / "mnist1d-mlp.jsonl"):
        cells.setdefault((row["arm"], row["step"]), []).append(row)
    found: Seen = {}
    for (arm, step), rows in cells.items():
        numbers = {key: np.array([row[key] for row in rows]) for key in (*_NUMBERS, *_CURVES)}
        found.setdefault(arm, []).append((step, numbers))
    return found


def section(folder: Path, figures: Sequence[Path] = ()) -> str:
    """Return the table of least eigenvalues over training, or nothing where they were not measured."""
    found = seen(folder)
    if not found:
        return ""
    lines = [_line(arm, step, numbers) for arm, points in found.items() for step, numbers in points]
    seeds = max(len(numbers["loss"]) for points in found.values() for _, numbers in points)
    drawn = "".join(f"![Saddles]({figure.parent.name}/{figure.name})\n\n" for figure in figures)
    return f"""## Saddles: {seeds} seeds, MNIST-1D, 4 blocks at a constant rate

Means over the seeds, with their standard errors; nothing was tuned here. *Least* and *held out* are of the splitting
matrix of hidden units, *significant* the share of units whose held-out quotient is negative by two standard errors,
*model* the least and the greatest eigenvalue of the whole model's Hessian, and v the eigenvector of the least, of
length 1 and pointing down the gradient. *Along v* is the lowest that the loss, against where the network is, gets
within +- {max(ALONG):g} v, and where it does: on the 512 samples on which v was found, and on the test samples; *down
the gradient* is the same for the gradient of those 512 samples. In the second figure lines are of the test samples,
dots of those 512.
Command: `python benchmarks/study saddles --records runs/again`.

{drawn}{table(_HEAD, lines)}"""


def _line(arm: str, step: int, numbers: dict[str, np.ndarray]) -> tuple[str, ...]:
    loss, least, held_out = (_spelled(numbers[key], ".4f") for key in ("loss", "least", "held_out"))
    significant = f"{_spelled(100 * numbers['significant'], '.0f')} %"
    model = ", ".join(_spelled(numbers[key], "+.2f") for key in ("model_least", "model_greatest"))
    return (arm, f"{step:+d}", loss, least, held_out, significant, model, *(_lowest(numbers[key]) for key in _CURVES))


def _spelled(values: np.ndarray, digits: str) -> str:
    """Spell a mean over seeds with its standard error; that of one seed is not known."""
    mean, error = mean_and_error(values)
    return f"{mean:{digits}}" + ("" if np.isnan(error) else f" ± {error:{digits.removeprefix('+')}}")


def _lowest(losses: np.ndarray) -> str:
    """Spell where the mean of the seeds' curves, (seeds, distances), is lowest."""
    place = int(losses.mean(0).argmin())
    return f"{_spelled(losses[:, place], '+.4f')} at {ALONG[place]:+g}" if losses[:, place].mean() < 0 else "0"
