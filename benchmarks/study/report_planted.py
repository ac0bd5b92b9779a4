"""The page's section on planted depth: what each way to give out units gains, and which scores know the place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from study.analysis import Difference, holm, mean_and_error, paired
from study.planted.study import RATES, Row, at_tuned_rate, read
from study.planted.teacher import HARD, OUTPUTS, VARIANTS
from study.tables import probability, table

_BASE = "even"
_SAID = {
    "linear": "easy outputs linear",
    "tanh": "easy outputs of one tanh layer",
    "noisy": "easy outputs linear, four of them with label noise",
}
_RESAMPLES = 2_000


def section(folder: Path) -> str:
    """Return the tables of all variants that have run, or nothing."""
    path = folder / "planted" / "planted.jsonl"
    parts = [_variant(variant.name, at_tuned_rate(read(path, variant))) for variant in VARIANTS]
    parts = [part for part in parts if part]
    if not parts:
        return ""
    introduction = f"""## Does the place matter where depth is planted?

A constructed positive control: a regression with {OUTPUTS} outputs in random order, {HARD} of which have five hidden
layers. An MLP 12-48-48-{OUTPUTS} trains for 1,000 steps of 64 fresh samples; at step 200 it gets 64 GELU units behind
the last hidden layer, each for a single output. All arms have exactly the same parameters, but for *not grown*.
Differences are of the logarithm of the test error without noise, paired by seed, in percent of even growth; *p* is
corrected in each table (Holm). *Hard* is the share of the units that went to the hard outputs (chance
{HARD / OUTPUTS:.0%}), with its 95 % interval over seeds. *Rank correlation*: of a score with what an output gains
if it gets all 64 units, mean over seeds. *trial* trains both ways for 150 steps: the empirical reference. Command:
`python benchmarks/study planted --records runs/again`."""
    return "\n\n".join([introduction, *parts])


def _variant(name: str, own: Sequence[Row]) -> str:
    losses = _by(own, "arm", "loss")
    if _BASE not in losses:
        return ""
    shown = [arm for arm in losses if arm != _BASE and not arm.endswith("alone")]
    differences = [paired(np.log(losses[arm]).tolist(), np.log(losses[_BASE]).tolist()) for arm in shown]
    corrected = holm([difference.p for difference in differences])
    hard = _by(own, "arm", "hard")
    lines = [[_BASE, f"{np.mean(losses[_BASE]):.4f}", "", "", "", "", _share(hard[_BASE])]]
    for arm, difference, p in sorted(zip(shown, differences, corrected, strict=True), key=lambda each: each[1].mean):
        lines.append([arm, f"{np.mean(losses[arm]):.4f}", *_said(difference, p), _share(hard[arm])])
    head = ["units to", "test error", "against even", "95 % interval", "wins", "p", "hard"]
    seeds, rate = len(losses[_BASE]), next(row["rate"] for row in own if "arm" in row)
    edge = " *" if rate in (min(RATES), max(RATES)) else ""
    title = f"### {_SAID[name]}, {seeds} fresh seeds, rate {rate:g}{edge}"
    return "\n\n".join([title, table(head, lines), _correlations(own)])


def _by(rows: Sequence[Row], key: str, value: str) -> dict[str, list[float]]:
    """Return the values of each arm, by seed."""
    found: dict[str, dict[int, float]] = {}
    for row in sorted((row for row in rows if key in row), key=lambda row: int(row["seed"])):
        found.setdefault(str(row[key]), {})[row["seed"]] = float(row[value])
    return {name: list(own.values()) for name, own in found.items()}


def _said(difference: Difference, p: float) -> list[str]:
    percent = f"{100 * difference.mean:+.1f} ± {100 * difference.error:.1f} %"
    interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return [percent, interval, f"{difference.wins:.0%}", probability(p)]


def _share(values: Sequence[float]) -> str:
    """Return the mean share with an interval by resampling seeds; one number where all seeds agree."""
    found = np.asarray(values)
    if found.std() == 0:
        return f"{found.mean():.0%}"
    draws = np.random.default_rng(0).choice(found, (_RESAMPLES, len(found))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{found.mean():.0%} ({low:.0%} to {high:.0%})"


def _correlations(rows: Sequence[Row]) -> str:
    """Return for each score its rank correlation with the truth by site."""
    alone = np.array([_by(rows, "arm", "loss")[f"output {output} alone"] for output in range(OUTPUTS)]).T
    seeds = sorted({int(str(row["seed"])) for row in rows if "arm" in row})
    lines = []
    for score in dict.fromkeys(str(row["score"]) for row in rows if "score" in row):
        own = {int(str(row["seed"])): row["priorities"] for row in rows if row.get("score") == score}
        found = [float(stats.spearmanr(own[seed], -alone[place])[0]) for place, seed in enumerate(seeds)]
        mean, error = mean_and_error(found)
        lines.append([score, f"{mean:+.2f} ± {error:.2f}"])
    return table(["score", "rank correlation"], lines)
