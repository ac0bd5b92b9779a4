"""The page's section on saddles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from study import jsonl
from study.saddles import ALONG

_HEAD = ("arm", "steps after the snapshot", "test loss", "least, median", "held out, median", "significant", "model")
_HEAD += ("along v, probe", "along v, test", "down the gradient, test")

Means = dict[str, list[tuple[int, dict[str, Any]]]]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return jsonl.read(folder / "saddles" / "mnist1d-mlp.jsonl")


def means(folder: Path) -> Means:
    """Return for each arm its steps and, at each, the means over the seeds."""
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in _rows(folder):
        cells.setdefault((row["arm"], row["step"]), []).append(row)
    found: Means = {}
    for (arm, step), rows in cells.items():
        keys = [key for key in rows[0] if key not in ("arm", "step", "seed")]
        found.setdefault(arm, []).append((step, {key: np.mean([row[key] for row in rows], axis=0) for key in keys}))
    return found


def section(folder: Path, figures: Sequence[Path] = ()) -> str:
    """Return the table of least eigenvalues over training, or nothing where they were not measured."""
    rows = _rows(folder)
    if not rows:
        return ""
    lines = [_HEAD, ("---",) * len(_HEAD)]
    lines += [_line(arm, step, row) for arm, points in means(folder).items() for step, row in points]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    seeds = len({row["seed"] for row in rows})
    drawn = "".join(f"![Saddles]({figure.parent.name}/{figure.name})\n\n" for figure in figures)
    return f"""## Saddles: {seeds} seeds, MNIST-1D, 4 blocks at a constant rate

Means over the seeds; nothing was tuned here. *Least* and *held out* are of the splitting matrix of hidden units,
*significant* the share of units whose held-out quotient is negative by two standard errors, *model* the least and the
greatest eigenvalue of the whole model's Hessian, and v the eigenvector of the least, of length 1 and pointing down
the gradient. *Along v* is the lowest that the loss, against where the network is, gets within +- {max(ALONG):g} v,
and where it does: on the 512 samples on which v was found, and on the test samples; *down the gradient* is the same
for the gradient of those 512 samples. In the second figure lines are of the test samples, dots of those 512.
Command: `python benchmarks/study saddles`.

{drawn}{table}"""


def _line(arm: str, step: int, row: dict[str, Any]) -> tuple[str, ...]:
    model = f"{row['model_least']:+.2f}, {row['model_greatest']:+.2f}"
    numbers = (f"{row['loss']:.4f}", f"{row['least']:.4f}", f"{row['held_out']:.4f}", f"{row['significant']:.0%}")
    fallen = (_lowest(row[key]) for key in ("escape_probe", "escape_test", "gradient_test"))
    return (arm, f"{step:+d}", *numbers, model, *fallen)


def _lowest(losses: np.ndarray) -> str:
    place = int(losses.argmin())
    return f"{losses[place]:+.4f} at {ALONG[place]:+g}" if losses[place] < 0 else "0"
