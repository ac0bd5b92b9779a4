"""Timing of steps, in pairs that are interleaved: what disturbs one of a pair disturbs the other too."""

import math
import os
import time
from collections.abc import Callable, Sequence
from statistics import median

from torch import Tensor, nn

#: says what time it is, in seconds
Clock = Callable[[], float]


def step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return a function that makes one forward and one backward pass."""

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(images).square().mean().backward()

    return run


def processor_time() -> float:
    """Return the processor time of this process, and of the compilers that it has started and waited for, in seconds.

    On one thread, and on a machine that does other work too, it says what wall time says on a quiet one.
    """
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def elapsed(function: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Return the time of one call, in seconds."""
    start = clock()
    function()
    return clock() - start


def ratio_in_pairs(
    one: Callable[[], object], other: Callable[[], object], pairs: int, clock: Clock = time.perf_counter
) -> float:
    """Return the median of ``one / other`` over pairs of calls, each pair in the other order than the last."""
    found = []
    for index in range(pairs):
        if index % 2:
            first, second = elapsed(one, clock), elapsed(other, clock)
        else:
            second, first = elapsed(other, clock), elapsed(one, clock)
        found.append(first / second)
    return median(found)


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Return the least-squares slope of log time over log size."""
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)
