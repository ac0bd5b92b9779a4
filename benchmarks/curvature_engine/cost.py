"""What a score costs, in training steps of the same batch."""

from collections.abc import Callable, Iterator

import torch
import torch.fx as fx
import torch.nn.functional as F
from measuring.machine import Row, row, seconds

from curvature_engine.models import ALL_LINEAR, MLP_UNITS, batch, deit_small
from fxgrow.curvature import StepRecorder, analyze
from fxgrow.curvature.analysis import select_sites
from fxgrow.curvature.eigen import splittable
from fxgrow.curvature.lanczos import lanczos, start_vectors
from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices
from fxgrow.curvature.probe import Probe, captured_groups, solving
from fxgrow.curvature.probe_data import read_batches
from fxgrow.curvature.reading import Reading
from fxgrow.graph.sites import find_sites

ROOM = 64 << 30  # all sites in one group: the passes are made once
SITES = {"MLP units": (MLP_UNITS, "2.8", "1.8"), "all linear sites": (ALL_LINEAR, "6.2", "5.2")}


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    graph_module, size = deit_small(quick)
    samples = 8 if quick else 32
    x, y = batch(samples, size)
    step = training_step(graph_module, x, y)
    step()
    unit = seconds(step)
    yield row(f"one training step, {samples} samples at {size}, seconds", f"{unit:.2f}")
    for name, (patterns, target, reused) in SITES.items():
        for iterations in (0, 8):
            cost = seconds(lambda p=patterns, i=iterations: eigenvalues(graph_module, x, y, p, i), 2) / unit
            what = f"{name}, capture" if not iterations else f"{name}, eigenvalues at 8 iterations"
            yield row(what, f"{cost:.2f} steps", f"at most {target}" if iterations else "")
        cost = seconds(lambda p=patterns: scores(graph_module, x, y, p, None), 2) / unit
        yield row(f"{name}, with held-out values and errors", f"{cost:.2f} steps")
        yield from early_stop(graph_module, x, y, patterns, name, unit)
        yield from reuse(graph_module, x, y, patterns, name, unit, reused)


def training_step(graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes one step of AdamW."""
    optimizer = torch.optim.AdamW(graph_module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(graph_module(x), y).backward()
        optimizer.step()

    return step


def eigenvalues(
    graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor, patterns: tuple[str, ...], iterations: int
) -> None:
    """Find least eigenvalues without held-out values; with no iterations capture only."""
    sites = {path: s for path, s in select_sites(find_sites(graph_module), patterns).items() if s.refusal is None}
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


def scores(
    graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor, patterns: tuple[str, ...], settled: float | None
) -> float:
    """Analyze, and return the mean number of iterations that were made."""
    found = analyze(
        graph_module, F.cross_entropy, [(x, y)], sites=patterns, iterations=8, settled=settled, max_memory=ROOM
    )
    return sum(site.iterations or 0 for site in found.values()) / len(found)


def early_stop(
    graph_module: fx.GraphModule,
    x: torch.Tensor,
    y: torch.Tensor,
    patterns: tuple[str, ...],
    name: str,
    unit: float,
) -> Iterator[Row]:
    """Yield what stopping at a settled ranking saves."""
    made: list[float] = []
    cost = seconds(lambda: made.append(scores(graph_module, x, y, patterns, 0.999)), 2) / unit
    yield row(
        f"{name}, the same, stopped where the ranking has settled (0.999)",
        f"{cost:.2f} steps, {made[-1]:.1f} iterations",
    )


def reuse(
    graph_module: fx.GraphModule,
    x: torch.Tensor,
    y: torch.Tensor,
    patterns: tuple[str, ...],
    name: str,
    unit: float,
    target: str,
) -> Iterator[Row]:
    """Yield what scores add to a training step whose passes they use."""
    for what, function in (("eigenvalues", eigenvalues_of_step), ("with held-out values", scores_of_step)):
        recorder = StepRecorder(graph_module, sites=patterns)

        def recorded(recorder: StepRecorder = recorder, function: Callable[[StepRecorder], None] = function) -> None:
            F.cross_entropy(recorder(x), y).backward()
            function(recorder)

        plain = seconds(lambda: F.cross_entropy(graph_module(x), y).backward(), 2)
        added = (seconds(recorded, 2) - plain) / unit
        bound = f"at most {target}" if what == "eigenvalues" else ""
        yield row(f"{name}, added to a step that is made anyway, {what}", f"{added:.2f} steps", bound)
    graph_module.zero_grad()


def eigenvalues_of_step(recorder: StepRecorder) -> None:
    """Find least eigenvalues on a recorded step, without held-out values."""
    recorder._collect()
    with torch.no_grad():
        for reading, captured in recorder._captured.items():
            least_eigenvalues(reading, captured, 8)
            recorder._captured[reading] = []


def scores_of_step(recorder: StepRecorder) -> None:
    """Score a recorded step."""
    recorder.scores(iterations=8)
