"""Run the planted task: some seeds of a variant at a time, all arms in one batch; what is recorded is not run again."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from study import jsonl
from study.jsonl import Row
from study.planted import arms, students
from study.planted.teacher import VARIANTS, Teacher, Variant
from study.progress import Bar
from study.records import circumstances

RATES, TUNING, FRESH, TOGETHER = (0.003, 0.01, 0.03), (0, 1, 2), 12, 4


def run(path: Path) -> None:
    """Tune the rate for even growth, and then run every arm at it on fresh seeds."""
    missing = [(variant, seeds) for variant in VARIANTS for seeds in _chunks() if not _has(path, variant, seeds)]
    bar = Bar(len(missing) * students.STEPS)
    for variant, seeds in missing:
        peak = tuned(path, variant)
        said = f"planted, {variant.name}"
        jsonl.append(path, _rows(variant, seeds, peak, lambda step, said=said: bar.show(said, step)))
        bar.done += students.STEPS


def _chunks() -> list[tuple[int, ...]]:
    fresh = range(1000, 1000 + FRESH)
    return [tuple(fresh[first : first + TOGETHER]) for first in range(0, FRESH, TOGETHER)]


def tuned(path: Path, variant: Variant) -> float:
    """Return the rate that is best for even growth on the tuning seeds; measure it if that is not recorded."""
    known = {float(str(row["rate"])): row for row in read(path) if row["variant"] == variant.name and "tuned" in row}
    for rate in RATES:
        if rate not in known:
            loss = _even(variant, rate)
            known[rate] = {"variant": variant.name, "rate": rate, "tuned": loss, **circumstances()}
            jsonl.append(path, [known[rate]])
    return min(known, key=lambda rate: float(str(known[rate]["tuned"])))


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
    common = {"variant": variant.name, "rate": rate, **circumstances()}
    for index, seed in enumerate(seeds):
        hard = teachers[index].hard
        for name, loss in zip(given, losses[:, index].tolist(), strict=True):
            share = (given[name][index][hard].sum() / students.UNITS).item()
            yield {"arm": name, "seed": seed, "loss": loss, "hard": share, **common}
        for name, found in scores.items():
            yield {"score": name, "seed": seed, "priorities": found[index].tolist(), **common}


def read(path: Path) -> list[Row]:
    """Return what is recorded."""
    return jsonl.read(path)


def _has(path: Path, variant: Variant, seeds: Sequence[int]) -> bool:
    found = {row["seed"] for row in read(path) if row["variant"] == variant.name and "arm" in row}
    return set(seeds) <= found
