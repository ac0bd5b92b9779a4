"""What a growth event allocates, over the bytes of the new parameters."""

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch.fx as fx
from measuring.machine import Row, high_water, peak_from_now, row
from torch.profiler import ProfilerActivity, profile

import fxgrow
from compile_speed.models import deit, random_scores

TARGET = "at most 1.05"
OPERATORS = ("serial", "branch", "gated", "paper")


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    traced = deit("small", 2)[1]
    scores = random_scores(traced, eigenvectors=True)
    for operator in OPERATORS[:2] if quick else OPERATORS:
        for budget in (0.10, 0.50):
            options = {"budget": budget, "operator": operator}
            grown, peak = peak_allocation(lambda options=options: fxgrow.grow(traced, scores, **options))
            over = peak / new_bytes(traced, grown)
            yield row(f"{operator}, {budget:+.0%}, peak of tensors over new parameters", f"{over:.3f}", TARGET)
    yield row("old parameters that the grown model shares", f"{shared(traced, grown):.0%}", "100%")
    for budget in (0.10, 0.50):
        yield row(f"serial, {budget:+.0%}, peak of the process over new parameters", f"{_in_a_process(budget):.2f}")


def peak_allocation(function: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a call returns, and how many bytes torch's allocator had given out on the way at most."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        result = function()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return result, peak


def new_bytes(before: fx.GraphModule, after: fx.GraphModule) -> int:
    """Return how many bytes of parameters `after` has beyond those of `before`."""
    return sum(p.nbytes for p in after.parameters()) - sum(p.nbytes for p in before.parameters())


def shared(before: fx.GraphModule, after: fx.GraphModule) -> float:
    """Return the share of the parameters of `before` that `after` holds as the same tensors."""
    held = {id(parameter) for parameter in after.parameters()}
    old = list(before.parameters())
    return sum(id(parameter) in held for parameter in old) / len(old)


def _in_a_process(budget: float) -> float:
    code = f"from compile_speed.memory import resident; print(resident({budget}))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=sys.path[0])
    return float(result.stdout.split()[-1])


def resident(budget: float) -> float:
    """Return the peak resident memory of a growth event (Linux) over the bytes of the new parameters."""
    traced = deit("small", 2)[1]
    small, scores = random_scores(traced, seed=1), random_scores(traced)
    fxgrow.grow(traced, small, budget=0.001)  # what is imported and cached at the first event is not counted
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the event would be served from what tracing has left behind
    before = peak_from_now()
    grown = fxgrow.grow(traced, scores, budget=budget)
    return (high_water() - before) / new_bytes(traced, grown)
