"""What a measurement needs: timing, rows, and a description of the machine."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

import torch


class Row(TypedDict):
    """One line of a table."""

    what: str
    value: str
    target: str


def row(what: str, value: str, target: str = "") -> Row:
    """Make a row."""
    return {"what": what, "value": value, "target": target}


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"| {row['what']} | {row['value']} | {row['target']} |" for row in rows]
    return "\n".join(["| what | measured | target |", "|---|---|---|", *lines])


def seconds(function: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the least time of some calls: what disturbs a measurement only makes it longer."""
    found = []
    for _ in range(repeats):
        start = clock()
        function()
        found.append(clock() - start)
    return min(found)


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the processor time of one call, over all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


def peak_from_now() -> int:
    """Let this process's peak memory begin anew at what it takes now (Linux), and return that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water() -> int:
    """Return the peak resident memory of this process (Linux), in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def describe() -> str:
    """Name the processor, the threads and the version of torch."""
    return f"{processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}"


def processor() -> str:
    """Name the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
