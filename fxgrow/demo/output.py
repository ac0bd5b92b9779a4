"""What the demo leaves behind: the model, its weights, the metrics and a plot, all of them or none."""

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp

import torch

from fxgrow.errors import FileError
from fxgrow.files import save
from fxgrow.results import METRICS, MODEL, RECIPE
from fxgrow.runs.folder import WEIGHTS
from fxgrow.runs.growing import WakingBlocks
from fxgrow.runs.metrics import EpochMetrics, write_metrics
from fxgrow.runs.reading import as_toml
from fxgrow.runs.settings import Settings

PLOT = "plot.png"


def write_results(
    settings: Settings, out: Path, grown: WakingBlocks, runs: Mapping[str, Sequence[EpochMetrics]]
) -> None:
    """Write recipe.toml, metrics.csv, model.pt, weights.pt and plot.png into `out`; other files are left alone.

    The model is scored before, so that its file says where it would grow further. The files are written beside `out`
    first and moved when all of them are complete.

    Raises:
        FileError: If they cannot be written.
    """
    grown.measure_scores()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            save(grown.saved, partial / MODEL)
            torch.save(grown.weights(), partial / WEIGHTS)
            (partial / RECIPE).write_text(as_toml(settings), encoding="utf-8")
            write_metrics(partial / METRICS, chain.from_iterable(runs.values()))
            plot(partial / PLOT, runs)
            out.mkdir(exist_ok=True)
            for name in (MODEL, WEIGHTS, METRICS, RECIPE, PLOT):
                os.replace(partial / name, out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"it cannot be written: {reason}", where=str(out), fix="choose another --out") from error


def plot(path: Path, runs: Mapping[str, Sequence[EpochMetrics]]) -> None:
    """Draw test loss, test accuracy and the parameters that run over the epochs of every model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, wspace=0.3)
    panels = figure.subplots(1, 3)
    drawn = (("test_loss", "test loss"), ("test_accuracy", "test accuracy"), ("parameters", "parameters that run"))
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
