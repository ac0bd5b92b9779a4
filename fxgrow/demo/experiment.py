"""The demo: train a narrow vision transformer, let it grow three times, and say what came of it."""

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.fx as fx
from rich.console import Console

from fxgrow.demo.loop import Digits, EpochMetrics, load_digits, train
from fxgrow.demo.model import NAME, NARROW, build, build_uniform, flops
from fxgrow.demo.output import write_results
from fxgrow.demo.progress import TrainingProgress
from fxgrow.demo.report import results_table
from fxgrow.demo.settings import Settings
from fxgrow.primitives.modules import parameter_count
from fxgrow.runs import MODEL


def run_demo(settings: Settings, console: Console) -> dict[str, Sequence[EpochMetrics]]:
    """Run the demo and return the metrics by model: ``grown``, and with `compare` ``base`` and ``uniform``.

    Raises:
        FxgrowError: If the data, the output folder or a growth event is refused. Nothing is written then.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    started = time.monotonic()
    digits = load_digits(settings)
    base = build(settings.shape, NARROW, seed=settings.seed)
    _introduce(settings, digits, base, console)
    runs: dict[str, Sequence[EpochMetrics]] = {}
    runs["grown"], grown = _train("grown", base, digits, settings, console)
    if settings.compare:
        console.print("For comparison: the base without growth, and a uniform model of the final size.")
        runs["base"], _ = _train("base", build(settings.shape, NARROW, seed=settings.seed), digits, settings, console)
        uniform = build_uniform(settings.shape, parameter_count(grown), seed=settings.seed)
        runs["uniform"], _ = _train("uniform", uniform, digits, settings, console)
    write_results(settings, grown, runs)
    console.print(results_table(runs))
    console.print(f"{time.monotonic() - started:.0f} s in all. Written: {settings.out}/, model and metrics")
    console.print(f"Look at what grew:  fxgrow inspect {Path(settings.out) / MODEL}", soft_wrap=True)
    console.print(f"In the browser:     fxgrow report {settings.out} -o report.html", soft_wrap=True)
    return runs


def _train(
    name: str, traced: fx.GraphModule, digits: Digits, settings: Settings, console: Console
) -> tuple[list[EpochMetrics], fx.GraphModule]:
    steps = len(digits.train_images) // settings.batch_size
    with TrainingProgress(console, settings, name, steps) as progress:
        return train(name, traced, digits, settings, progress, grows=name == "grown")


def _introduce(settings: Settings, digits: Digits, base: fx.GraphModule, console: Console) -> None:
    shape = settings.shape
    console.print(
        f"timm {NAME}: {shape.depth} blocks, width {shape.embed_dim}, {shape.heads} heads, mlp_ratio {NARROW:g}, "
        f"patch {shape.patch_size}; {parameter_count(base):,} parameters, {flops(base) / 1e6:.1f} MFLOPs an image"
    )
    console.print(
        f"{len(digits.train_images):,} MNIST digits to train on, {len(digits.test_images):,} to test on; seed "
        f"{settings.seed}; torch {torch.__version__} on {torch.get_num_threads()} of {os.cpu_count()} "
        f"{platform.machine()} cores, {'compiled block by block' if settings.compile else 'eager'}"
    )
