"""The demo: one network twice, grown by half-steps and from scratch, and what each of the two costs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fxgrow.demo.claim import read_claim
from fxgrow.demo.output import write_results
from fxgrow.results import MODEL
from fxgrow.runs.growing import WakingBlocks
from fxgrow.runs.metrics import EpochMetrics
from fxgrow.runs.progress import TrainingProgress
from fxgrow.runs.report import introduction, preparation
from fxgrow.runs.run import Run
from fxgrow.runs.settings import Settings

GROWN, SCRATCH = "half-steps", "from scratch"
#: the learning rate of the network from scratch, over that of the grown one: each has the best one that the study found
RATE_FROM_SCRATCH = 0.5


def run_demo(settings: Settings, out: Path, console: Console) -> dict[str, Sequence[EpochMetrics]]:
    """Train the network both ways, and return the metrics of each by its name.

    Args:
        settings: The recipe ``half_steps``, or one like it.
        out: Where the model, its weights, the metrics and a plot are written, when all is done.
        console: Where to write.

    Raises:
        FxgrowError: If the data or the output folder is refused. Nothing is written then.
    """
    started = time.monotonic()
    console.print(preparation(settings))
    grown = Run(settings, GROWN)
    console.print(introduction(grown))
    seconds = {GROWN: _train(grown, console)}
    console.print("\nThe same network from scratch: all blocks from the first step, the same steps and schedule.")
    scratch = Run(from_scratch(settings), SCRATCH)
    seconds[SCRATCH] = _train(scratch, console)
    assert isinstance(grown.growing, WakingBlocks)
    runs: dict[str, Sequence[EpochMetrics]] = {run.name: run.metrics for run in (grown, scratch)}
    write_results(settings, out, grown.growing, runs)
    flops = {GROWN: 1 - grown.growing.model.costs().flops_saved, SCRATCH: 1.0}
    console.print(results_table(runs, flops, seconds, f"Test results on {grown.batches.sizes[1]:,} series, one seed"))
    console.print(f"{read_claim()}\n")
    console.print(
        f"{time.monotonic() - started:.0f} s in all. Written: {out}/ (recipe, metrics, model, weights, plot)",
        soft_wrap=True,
    )
    console.print(f"Look at what grew:  fxgrow inspect {out / MODEL}", soft_wrap=True)
    console.print(f"In the browser:     fxgrow report {out} -o report.html", soft_wrap=True)
    return runs


def from_scratch(settings: Settings) -> Settings:
    """Return the settings of the same network without growth, at its own best learning rate."""
    rate = RATE_FROM_SCRATCH * settings.optimizer.rate
    return replace(settings, stages=None, optimizer=replace(settings.optimizer, rate=rate))


def results_table(
    runs: Mapping[str, Sequence[EpochMetrics]], flops: Mapping[str, float], seconds: Mapping[str, float], title: str
) -> Table:
    """Return the end of each training, and what it cost: FLOPs in shares of the other's, seconds of a processor."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "FLOPs", "processor", "test loss", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, metrics in runs.items():
        end, cost = metrics[-1], (f"{flops[name]:.2f}", f"{seconds[name]:.0f} s")
        table.add_row(name, f"{end.parameters:,}", *cost, f"{end.test_loss:.4f}", f"{end.test_accuracy:.1%}")
    return table


def _train(run: Run, console: Console) -> float:
    """Train, and return the time of a processor that it took: beside other work, a clock on the wall would mislead."""
    started = time.process_time()
    with TrainingProgress(console, run) as progress:
        run.train(progress)
    return time.process_time() - started
