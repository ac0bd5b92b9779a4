"""The peak memory of an analysis over that of a training step with the same batch."""

import subprocess
import sys
from collections.abc import Iterator

import torch.nn.functional as F
from measuring.machine import Row, high_water, peak_from_now, row

from curvature_engine.cost import SITES, training_step
from curvature_engine.models import batch, deit_small
from fxgrow.curvature import analyze
from fxgrow.curvature.analysis import DEFAULT_MAX_MEMORY

GIB = 1 << 30


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    train = measured("train", 0, quick)
    yield row("training steps with AdamW, peak beyond the model and its batch, GiB", f"{train / GIB:.2f}")
    for name in SITES:
        for room in (DEFAULT_MAX_MEMORY, DEFAULT_MAX_MEMORY // 2):
            ratio = measured(name, room, quick) / train
            target = "at most 1.3" if room == DEFAULT_MAX_MEMORY else ""
            yield row(f"analysis of {name} with max_memory of {room / GIB:g} GiB, over that", f"{ratio:.2f}", target)


def measured(job: str, room: int, quick: bool) -> float:
    """Return the peak memory of a job in a process of its own, in bytes."""
    code = f"from curvature_engine.memory import peak; print(peak({job!r}, {room}, {quick}))"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=sys.path[0]
    )
    return float(result.stdout.split()[-1])


def peak(job: str, room: int, quick: bool) -> int:
    """Return the peak memory of this process, in bytes, less what it takes before the first batch."""
    graph_module, size = deit_small(quick)
    x, y = batch(8 if quick else 32, size)
    before = peak_from_now()
    if job == "train":
        step = training_step(graph_module, x, y)
        step(), step()
    else:
        analyze(graph_module, F.cross_entropy, [(x, y)], sites=SITES[job], iterations=8, max_memory=room)
    return high_water() - before
