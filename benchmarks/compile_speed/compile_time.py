"""Compile time by block over whole: each compilation in a process of its own, with empty caches."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

import torch
from measuring.machine import Row, row
from measuring.timing import elapsed, step
from torch import nn
from torch._dynamo.utils import compilation_time_metrics

import fxgrow
from compile_speed.models import deit, random_scores

#: what grows in 2 of the 12 blocks: operator and sites
GROWTHS = {
    "branch on fc1": ("branch", "mlp.fc1"),
    "serial on fc1": ("serial", "mlp.fc1"),
    "branch on all four maps": ("branch", "*"),
    "serial on all four maps": ("serial", "*"),
}
BLOCKS = (3, 7)
#: seconds that a compilation takes, and how many of them pass in waiting for the C++ compiler
Cost = tuple[float, float]


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    jobs = list(GROWTHS)[:1] if quick else list(GROWTHS)
    found: dict[str, list[Cost]] = defaultdict(list)
    for _ in range(1 if quick else 3):
        found["whole"] += _run("whole")
        for job in jobs:
            first, again = _run(job)
            found["blocks"].append(first)
            found[job].append(again)
    whole, blocks = _median(found["whole"]), _median(found["blocks"])
    yield row("compiled whole by torch.compile, forward and backward", _spell(whole))
    yield row("first compile by fxgrow.compile over whole", _over(blocks, whole), "at most 0.25")
    for job in jobs:
        what = f"compile after growth in {len(BLOCKS)} blocks, {job}, over whole"
        yield row(what, _over(_median(found[job]), whole), "at most 0.2")


def _median(costs: list[Cost]) -> Cost:
    return median(cost[0] for cost in costs), median(cost[1] for cost in costs)


def _spell(cost: Cost) -> str:
    return f"{cost[0]:.1f} s, {cost[1]:.1f} s of it waiting for the C++ compiler"


def _over(cost: Cost, whole: Cost) -> str:
    return f"{cost[0] / whole[0]:.2f} ({_spell(cost)})"


def _run(job: str) -> list[Cost]:
    """Return what a job reports, from a process that finds no cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
        code = f"from compile_speed.compile_time import compile_job; compile_job({job!r})"
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=sys.path[0],
            env={**os.environ, **cold, "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"},
        )
    return [(float(cost[0]), float(cost[1])) for cost in json.loads(result.stdout.splitlines()[-1])]


def compile_job(job: str) -> None:
    """Compile a model of 12 blocks, and once more after growth; print the cost of each."""
    model, traced, images = deit("tiny", 2, depth=12)
    # The processor is probed and torch's headers are compiled once on each machine: neither is the model's cost.
    step(torch.compile(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))), torch.randn(4, 8))()
    if job == "whole":
        print(json.dumps([_cost(torch.compile(model), images)]))
        return
    compiled = fxgrow.compile(traced)
    first = _cost(compiled, images)
    operator, sites = GROWTHS[job]
    include = [f"blocks.{index}.{sites}" for index in BLOCKS]
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.02, operator=operator, include=include)
    print(json.dumps([first, _cost(fxgrow.compile(grown), images)]))


def _cost(model: nn.Module, images: torch.Tensor) -> Cost:
    """Return how much longer the first step takes than a later one."""
    run, before = step(model, images), _waited()
    first, waited = elapsed(run), _waited() - before
    return first - median(elapsed(run) for _ in range(3)), waited


def _waited() -> float:
    return sum(compilation_time_metrics.get("async_compile.wait", ()))
