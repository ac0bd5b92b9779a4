"""What a score costs, in training steps of the same batch: processor time of one thread, which load disturbs little."""

from collections.abc import Callable, Iterator

import torch
import torch.fx as fx
import torch.nn.functional as F
from measuring.machine import Row, row
from measuring.timing import elapsed, processor_time

from curvature_engine.models import ALL_LINEAR, MLP_UNITS, batch, deit_small
from fxgrow.curvature import Scores, StepRecorder, analyze
from fxgrow.curvature.eigen import splittable
from fxgrow.curvature.lanczos import lanczos, start_vectors
from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices
from fxgrow.curvature.probe import Probe, captured_groups, solving
from fxgrow.curvature.probe_data import read_batches
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.selection import select_sites
from fxgrow.curvature.statistics import spearman

ROOM = 64 << 30  # all sites in one group: the passes are made once
SITES = {"all linear sites": ALL_LINEAR, "MLP units": MLP_UNITS}
#: the most steps that analyzing some sites by default may cost, and that their eigenvalues at 8 iterations may
TARGETS = {"all linear sites": ("at most 5", "at most 6.2"), "MLP units": ("", "at most 2.8")}


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    torch.set_num_threads(1)
    graph_module, size = deit_small(quick)
    x, y = batch(8 if quick else 16, size)
    step = training_step(graph_module, x, y)
    analysed(graph_module, x[:2], y[:2], ALL_LINEAR)  # what is found out once about a graph is no part of the cost
    step()
    yield row(f"one training step, {len(x)} samples at {size}, seconds", f"{elapsed(step, processor_time):.2f}")
    for name, patterns in SITES.items():
        found: list[Scores] = []
        whole, alone = TARGETS[name]
        jobs: list[tuple[str, Callable[[], object], str]] = [
            ("by default", lambda p=patterns: found.append(analysed(graph_module, x, y, p)), whole),
            ("capture alone", lambda p=patterns: eigenvalues(graph_module, x, y, p, 0), ""),
            ("eigenvalues alone, 8 iterations", lambda p=patterns: eigenvalues(graph_module, x, y, p, 8), alone),
            ("by default, with the step whose passes serve", of_step(graph_module, x, y, patterns), ""),
        ]
        for what, job, target in jobs:
            yield row(f"{name}, {what}", f"{in_steps(job, step):.2f} steps", target)
        if name == "all linear sites":
            exact = in_steps(lambda p=patterns: found.append(analysed(graph_module, x, y, p, settled=None)), step)
            yield row(f"{name}, exact: 16 iterations over all positions", f"{exact:.2f} steps")
            yield from agreement(*found)


def in_steps(function: Callable[[], object], step: Callable[[], None]) -> float:
    """Return what a function takes over what a step takes, one before and one behind it."""
    before, taken, behind = (elapsed(job, processor_time) for job in (step, function, step))
    return 2 * taken / (before + behind)


def training_step(graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes one step of AdamW; it moves the weights too little to matter."""
    optimizer = torch.optim.AdamW(graph_module.parameters(), lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(graph_module(x), y).backward()
        optimizer.step()

    return step


def analysed(
    graph_module: fx.GraphModule,
    x: torch.Tensor,
    y: torch.Tensor,
    patterns: tuple[str, ...],
    **options: float | None,
) -> Scores:
    """Score some sites, with held-out values and error bars."""
    return analyze(graph_module, F.cross_entropy, [(x, y)], sites=patterns, max_memory=ROOM, **options)


def agreement(default: Scores, exact: Scores) -> Iterator[Row]:
    """Yield how the rankings by default compare with the exact ones."""
    for what in ("values", "held_out"):
        found = [spearman(getattr(exact[path], what), getattr(default[path], what)) or 0.0 for path in exact]
        label = f"rank correlation of {what.replace('_', '-')}, default and exact, least (mean) over sites"
        target = "at least 0.99" if what == "values" else ""
        yield row(label, f"{min(found):.3f} ({sum(found) / len(found):.3f})", target)


def eigenvalues(
    graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor, patterns: tuple[str, ...], iterations: int
) -> None:
    """Find least eigenvalues without held-out values; with no iterations capture only."""
    sites = select_sites(graph_module, patterns).growable
    read, _ = read_batches(graph_module, [(x, y)], seed=0)
    probe = Probe(graph_module, F.cross_entropy, read, sites, max(iterations, 1), 0, None, ROOM)
    readings, others = splittable(graph_module, sites)
    for group in captured_groups(probe, [*readings, *(Reading.branch(sites[path]) for path in others)]):
        while group and iterations:
            reading, captured = group.pop()
            with solving(probe):
                least_eigenvalues(reading, captured, iterations)


def least_eigenvalues(reading: Reading, captured: list[CapturedCall], iterations: int) -> None:
    """Find least eigenvalues over all data, from a random start."""
    start = start_vectors(reading.map.neurons, reading.map.features, 0, captured[0].input)
    lanczos(CurvatureMatrices(reading.map, tuple(captured)), start, iterations).pairs("least")


def of_step(
    graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor, patterns: tuple[str, ...]
) -> Callable[[], object]:
    """Return a function that makes a step's passes and scores the sites on what they saw."""
    recorder = StepRecorder(graph_module, sites=patterns)

    def recorded() -> Scores:
        F.cross_entropy(recorder(x), y).backward()
        return recorder.scores()

    return recorded
