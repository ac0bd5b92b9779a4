"""The demo: train a narrow vision transformer, let it grow three times, and say what came of it."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from fxgrow.demo.output import write_results
from fxgrow.demo.uniform import uniform_settings
from fxgrow.results import MODEL
from fxgrow.runs.metrics import EpochMetrics
from fxgrow.runs.neurons import growth_schedule
from fxgrow.runs.progress import TrainingProgress
from fxgrow.runs.report import results_table
from fxgrow.runs.run import Run
from fxgrow.runs.settings import Settings


def run_demo(
    settings: Settings, out: Path, console: Console, *, compare: bool = False
) -> dict[str, Sequence[EpochMetrics]]:
    """Run the demo and return the metrics by model: ``grown``, and with `compare` ``base`` and ``uniform``.

    Args:
        settings: The recipe ``demo``, or one like it.
        out: Where model, metrics and plot are written, when all is done.
        console: Where to write.
        compare: Whether the base is trained too, and a uniform model of the grown one's size.

    Raises:
        FxgrowError: If the data, the output folder or a growth event is refused. Nothing is written then.
    """
    growth_schedule(settings)  # events that do not fit are refused before anything is loaded
    started = time.monotonic()
    grown = Run(settings, "grown")
    _introduce(grown, console)
    runs: dict[str, Sequence[EpochMetrics]] = {"grown": _train(grown, console)}
    if compare:
        console.print("For comparison: the base without growth, and a uniform model of the final size.")
        base = replace(settings, growth=None)
        runs["base"] = _train(Run(base, "base"), console)
        runs["uniform"] = _train(Run(uniform_settings(base, grown.growing.parameters), "uniform"), console)
    write_results(settings, out, grown.growing.finished(), runs)
    console.print(results_table(runs, f"Test results on {grown.batches.sizes[1]:,} digits"))
    console.print(f"{time.monotonic() - started:.0f} s in all. Written: {out}/ (recipe, metrics, model, plot)")
    console.print(f"Look at what grew:  fxgrow inspect {out / MODEL}", soft_wrap=True)
    console.print(f"In the browser:     fxgrow report {out} -o report.html", soft_wrap=True)
    return runs


def _train(run: Run, console: Console) -> Sequence[EpochMetrics]:
    with TrainingProgress(console, run) as progress:
        run.train(progress)
    return run.metrics


def _introduce(run: Run, console: Console) -> None:
    settings, shape, (train, test) = run.settings, run.settings.model.arguments, run.batches.sizes
    console.print(
        f"timm {settings.model.name.partition(':')[2]}: {shape['depth']} blocks, width {shape['embed_dim']}, "
        f"{shape['num_heads']} heads, mlp_ratio {shape['mlp_ratio']:g}, patch {shape['patch_size']}; "
        f"{run.growing.parameters:,} parameters, {run.growing.flops / 1e6:.1f} MFLOPs an image"
    )
    console.print(
        f"{train:,} MNIST digits to train on, {test:,} to test on; seed "
        f"{settings.seed}; torch {torch.__version__} on {torch.get_num_threads()} of {os.cpu_count()} "
        f"{platform.machine()} cores, {'compiled block by block' if settings.compile else 'eager'}"
    )
