"""The page's section on saddles."""

import json
from pathlib import Path
from statistics import mean

_HEAD = ("arm", "steps after the snapshot", "test loss", "least, median", "held out, median", "significant", "model")


def section(folder: Path) -> str:
    """Return the table of least eigenvalues over training, or nothing where they were not measured."""
    path = folder / "saddles" / "mnist1d-mlp.jsonl"
    if not path.exists():
        return ""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cells: dict[tuple[str, int], list[dict[str, float]]] = {}
    for row in rows:
        cells.setdefault((row["arm"], row["step"]), []).append(row)
    lines = [_HEAD, ("---",) * len(_HEAD), *(_line(arm, step, found) for (arm, step), found in cells.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    seeds = len({row["seed"] for row in rows})
    return f"""## Saddles: {seeds} seeds, MNIST-1D, 4 blocks at a constant rate

Means over the seeds. *Least* and *held out* are of the splitting matrix of hidden units, *significant* the share of
units whose held-out quotient is negative by two standard errors, *model* the least and the greatest eigenvalue of the
whole model's Hessian. Command: `python benchmarks/study saddles`.

{table}"""


def _line(arm: str, step: int, found: list[dict[str, float]]) -> tuple[str, ...]:
    def of(key: str, form: str) -> str:
        return format(mean(row[key] for row in found), form)

    model = f"{of('model_least', '+.2f')}, {of('model_greatest', '+.2f')}"
    numbers = (of("loss", ".4f"), of("least", ".4f"), of("held_out", ".4f"), of("significant", ".0%"))
    return (arm, f"{step:+d}", *numbers, model)
