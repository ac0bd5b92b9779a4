"""Run the planted task: some seeds of a variant at a time, all arms in one batch; what is recorded is not run again."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from study import jsonl
from study.jsonl import Row
from study.planted import arms, students
from study.planted.teacher import VARIANTS, Teacher, Variant
from study.progress import Bar
from study.records import circumstances

RATES, TUNING, FRESH, TOGETHER = (0.003, 0.01, 0.03, 0.1), (0, 1, 2), 12, 4


def run(path: Path) -> None:
    """Tune the rate for even growth, and then run every arm at it on fresh seeds."""
    peaks = {variant: tuned(path, variant) for variant in VARIANTS}
    chunks = [(variant, seeds) for variant in VARIANTS for seeds in _chunks()]
    missing = [(variant, seeds) for variant, seeds in chunks if not set(seeds) <= _done(path, variant)]
    bar = Bar(len(missing) * students.STEPS)
    for variant, seeds in missing:
        said = f"planted, {variant.name}"
        jsonl.append(path, _rows(variant, seeds, peaks[variant], lambda step, said=said: bar.show(said, step)))
        bar.done += students.STEPS


def _chunks() -> list[tuple[int, ...]]:
    fresh = range(1000, 1000 + FRESH)
    return [tuple(fresh[first : first + TOGETHER]) for first in range(0, FRESH, TOGETHER)]


def tuned(path: Path, variant: Variant) -> float:
    """Return the rate that is best for even growth on the tuning seeds; measure it if that is not recorded."""
    known = _losses(read(path, variant))
    for rate in RATES:
        if rate not in known:
            known[rate] = _even(variant, rate)
            jsonl.append(path, [{"tuned": known[rate], **_common(variant, rate)}])
    return min(known, key=known.__getitem__)


def _losses(rows: Sequence[Row]) -> dict[float, float]:
    """Return the loss of even growth at each rate of the grid that has run."""
    return {row["rate"]: row["tuned"] for row in rows if "tuned" in row and row["rate"] in RATES}


def _even(variant: Variant, rate: float) -> float:
    teachers = [Teacher(variant, seed) for seed in TUNING]
    base = _base(teachers, TUNING, rate)
    grown = students.grow(base, TUNING, arms.allocations({}, teachers, TUNING)["even"][None])
    students.train(grown, teachers, TUNING, range(students.GROWTH, students.STEPS), rate)
    return students.errors(grown, teachers, TUNING).mean().item()


def _base(teachers: Sequence[Teacher], seeds: Sequence[int], rate: float) -> students.Students:
    base = students.begin(seeds)
    students.train(base, teachers, seeds, range(students.GROWTH), rate)
    return base


def _rows(variant: Variant, seeds: Sequence[int], rate: float, report: students.Report) -> Iterable[Row]:
    """Return a row for each arm and seed, and one for each score and seed."""
    torch.manual_seed(0)
    teachers = [Teacher(variant, seed) for seed in seeds]
    base = _base(teachers, seeds, rate)
    scores = arms.scores(base, teachers, seeds, rate)
    given = arms.allocations(scores, teachers, seeds)
    grown = students.grow(base, seeds, torch.stack(list(given.values())))
    students.train(grown, teachers, seeds, range(students.GROWTH, students.STEPS), rate, report)
    losses = students.errors(grown, teachers, seeds).mean(1).view(len(given), len(seeds))
    common = _common(variant, rate)
    for index, seed in enumerate(seeds):
        hard = teachers[index].hard
        for name, loss in zip(given, losses[:, index].tolist(), strict=True):
            share = (given[name][index][hard].sum() / students.UNITS).item()
            yield {"arm": name, "seed": seed, "loss": loss, "hard": share, **common}
        for name, found in scores.items():
            yield {"score": name, "seed": seed, "priorities": found[index].tolist(), **common}


def read(path: Path, variant: Variant) -> list[Row]:
    """Return what is recorded of a variant with the settings as they are; the first records do not say theirs."""
    digest = _digest(variant)
    own = [row for row in jsonl.read(path) if row["variant"] == variant.name]
    return [row for row in own if row.get("digest", digest) == digest]


def at_tuned_rate(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of arms and scores at the rate that is best for even growth."""
    losses = _losses(rows)
    return [row for row in rows if losses and "tuned" not in row and row["rate"] == min(losses, key=losses.__getitem__)]


def _done(path: Path, variant: Variant) -> set[int]:
    return {row["seed"] for row in at_tuned_rate(read(path, variant)) if "arm" in row}


def _common(variant: Variant, rate: float) -> Row:
    return {"variant": variant.name, "digest": _digest(variant), "rate": rate, **circumstances()}


def _digest(variant: Variant) -> str:
    sizes = students.STEPS, students.GROWTH, students.BATCH, students.HIDDEN, students.UNITS
    return hashlib.sha256(repr((variant, sizes, arms.SCORES)).encode()).hexdigest()[:12]
