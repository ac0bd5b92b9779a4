"""What the demo leaves behind: the model, the metrics, the settings and a plot, all of them or none."""

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

import torch.fx as fx

from fxgrow.demo.loop import EpochMetrics
from fxgrow.demo.settings import Settings
from fxgrow.errors import FileError
from fxgrow.files import save
from fxgrow.runs import METRICS, MODEL, SETTINGS

PLOT = "plot.png"


def write_results(settings: Settings, grown: fx.GraphModule, runs: Mapping[str, Sequence[EpochMetrics]]) -> None:
    """Write model.pt, metrics.csv, run.toml and plot.png into the output folder; other files in it are left alone.

    The files are written beside `out` first and moved when all of them are complete.

    Raises:
        FileError: If they cannot be written.
    """
    out = settings.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            save(grown, partial / MODEL)
            write_metrics(partial / METRICS, runs)
            write_settings(partial / SETTINGS, settings)
            plot(partial / PLOT, runs)
            out.mkdir(exist_ok=True)
            for name in (MODEL, METRICS, SETTINGS, PLOT):
                os.replace(partial / name, out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"it cannot be written: {reason}", where=str(out), fix="choose another --out") from error


def write_metrics(path: Path, runs: Mapping[str, Sequence[EpochMetrics]]) -> None:
    """Write one line for each epoch of each model."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(EpochMetrics)])
        writer.writeheader()
        for metrics in runs.values():
            writer.writerows(dataclasses.asdict(line) for line in metrics)


def write_settings(path: Path, settings: Settings) -> None:
    """Write the settings as TOML, below the command that repeats the run."""
    plain = {name: value for name, value in dataclasses.asdict(settings).items() if isinstance(value, int | float)}
    lines = [f"command = {json.dumps(settings.command)}", "", "[settings]"]
    path.write_text("\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in plain.items()), ""]))


def plot(path: Path, runs: Mapping[str, Sequence[EpochMetrics]]) -> None:
    """Draw test loss, test accuracy and parameters over the epochs of every model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, wspace=0.3)
    panels = figure.subplots(1, 3)
    drawn = (("test_loss", "test loss"), ("test_accuracy", "test accuracy"), ("parameters", "parameters"))
    for axes, (quantity, title) in zip(panels, drawn, strict=True):
        for name, metrics in runs.items():
            trained = metrics[1:]
            style = "steps-post" if quantity == "parameters" else "default"
            values = [getattr(line, quantity) for line in trained]
            axes.plot([line.epoch for line in trained], values, label=name, drawstyle=style)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].legend()
    figure.savefig(path, dpi=120)
