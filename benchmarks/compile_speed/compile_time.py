"""Compile time by block over whole: each compilation in a process of its own, with empty caches."""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

import torch
from curvature_engine.machine import Row, row
from torch import nn

import fxgrow
from compile_speed.models import deit, random_scores
from compile_speed.timing import elapsed, step

#: what grows in 2 of the 12 blocks: operator and sites
GROWTHS = {
    "branch on fc1": ("branch", "mlp.fc1"),
    "serial on fc1": ("serial", "mlp.fc1"),
    "branch on all four maps": ("branch", "*"),
    "serial on all four maps": ("serial", "*"),
}
BLOCKS = (3, 7)


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    jobs = list(GROWTHS)[:1] if quick else list(GROWTHS)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(1 if quick else 3):
        found["whole"] += _run("whole", quick)
        for job in jobs:
            first, again = _run(job, quick)
            found["blocks"].append(first)
            found[job].append(again)
    whole = median(found["whole"])
    yield row("compiled whole by torch.compile, forward and backward, seconds", f"{whole:.1f}")
    first = median(found["blocks"])
    yield row("first compile by fxgrow.compile over whole", f"{first / whole:.2f} ({first:.1f} s)", "at most 0.25")
    for job in jobs:
        again = median(found[job])
        value = f"{again / whole:.2f} ({again:.1f} s)"
        yield row(f"compile after growth in {len(BLOCKS)} blocks, {job}, over whole", value, "at most 0.2")


def _run(job: str, quick: bool) -> list[float]:
    """Return the seconds that a job reports, from a process that finds no cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
        code = f"from compile_speed.compile_time import compile_job; compile_job({job!r}, {quick})"
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=sys.path[0],
            env={**os.environ, **cold, "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"},
        )
    return [float(number) for number in result.stdout.splitlines()[-1].split()]


def compile_job(job: str, quick: bool) -> None:
    """Compile a model of 12 blocks, and once more after growth; print how long each took beyond a step, in seconds."""
    model, traced, images = deit("tiny", 2, depth=12)
    # The processor is probed and torch's headers are compiled once on each machine: neither is the model's cost.
    step(torch.compile(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))), torch.randn(4, 8))()
    if job == "whole":
        print(_beyond_a_step(torch.compile(model), images))
        return
    compiled = fxgrow.compile(traced)
    first = _beyond_a_step(compiled, images)
    operator, sites = GROWTHS[job]
    include = [f"blocks.{index}.{sites}" for index in BLOCKS]
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.02, operator=operator, include=include)
    print(first, _beyond_a_step(fxgrow.compile(grown), images))


def _beyond_a_step(model: nn.Module, images: torch.Tensor) -> float:
    run = step(model, images)
    first = elapsed(run)
    return first - median(elapsed(run) for _ in range(3))
