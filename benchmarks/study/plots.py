"""The figures: loss against cost for each task that has a frontier, and what growth does to least eigenvalues."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from study import report_saddles
from study.groups import FRONTIERS, Frontier
from study.lines import line
from study.records import Records
from study.saddles import ALONG


def draw(records: Records, folder: Path) -> list[Path]:
    """Write the figures, and return their paths; a task without two points of a kind has none."""
    written = []
    for name in dict.fromkeys(frontier.task.name for frontier in FRONTIERS):
        curves = [_curve(frontier, records) for frontier in FRONTIERS if frontier.task.name == name]
        known = [curve for curve in curves if len(curve[1]) > 1]
        if known:
            written.append(_figure(known, folder / f"{name}.svg"))
    return written


Curve = tuple[Frontier, list[tuple[float, float, float]]]


def _curve(frontier: Frontier, records: Records) -> Curve:
    """Return cost, loss and its error for each arm that has run, fresh seeds first; cost with the baseline = 1."""
    for fresh in (frontier.fresh, 0):
        base = line(records, frontier.task, frontier.baseline, fresh)
        found = [line(records, frontier.task, arm, fresh) for arm in frontier.arms]
        known = [one for one in found if one is not None]
        if base is not None and len(known) > 1:
            points = [
                (one.mean("cost") / base.mean("cost"), one.mean("loss"), float(np.std(one.numbers("loss"))))
                for one in known
            ]
            return frontier, sorted(points)
    return frontier, []


def draw_saddles(folder: Path, target: Path) -> list[Path]:
    """Write the figures of the saddle question, if it was measured, and return their paths."""
    found = report_saddles.seen(folder)
    return [_draw_steps(found, target), _draw_along(found, target)] if found else []


def _draw_along(found: report_saddles.Seen, target: Path) -> Path:
    """Draw the loss along the eigenvector of the least eigenvalue, a panel for each time."""
    path, grown = target / "saddles_along.svg", {arm: dict(rows) for arm, rows in found.items() if arm != "before"}
    steps = sorted(set().union(*grown.values()))
    with _saved(path, 1, len(steps), (9, 2.8), sharey=True) as (figure, axes):
        for panel, step in zip(axes, steps, strict=True):
            for index, (arm, rows) in enumerate(grown.items()):
                panel.plot(ALONG, rows[step]["escape_test"].mean(0), color=f"C{index}", label=arm)
                panel.plot(ALONG, rows[step]["escape_probe"].mean(0), color=f"C{index}", linestyle=":")
            panel.axhline(0, color="gray", linewidth=0.5)
            panel.set(xlabel="distance along v", title=f"{step:,} steps after growth", ylim=(-0.1, 0.2))
            panel.title.set_fontsize("small")
        axes[0].set_ylabel("change of the loss")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(grown), frameon=False)
    return path


def _draw_steps(found: report_saddles.Seen, target: Path) -> Path:
    """Draw the loss and what eigenvalues say over the steps after growth."""
    path = target / "saddles.svg"
    panels = {
        "loss": "test loss",
        "significant": "share of units at a saddle",
        "model_least": "model's least eigenvalue",
    }
    with _saved(path, 1, len(panels), (9, 2.8)) as (figure, axes):
        for panel, (key, title) in zip(axes, panels.items(), strict=True):
            for arm, points in found.items():
                steps = [step for step, _ in points]
                panel.plot(steps, [row[key].mean() for _, row in points], marker="o", markersize=3, label=arm)
            panel.set_xscale("symlog", linthresh=10)
            panel.set(xlabel="steps after growth", title=title)
            panel.title.set_fontsize("small")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found), frameon=False)
    return path


def _figure(curves: list[Curve], path: Path) -> Path:
    with _saved(path, 1, 1, (5, 3.2)) as (_, axes):
        for frontier, points in curves:
            cost, loss, spread = zip(*points, strict=True)
            axes.errorbar(cost, loss, yerr=spread, marker="o", capsize=2, label=frontier.title + frontier.said)
        axes.set(xlabel="cost, the baseline = 1", ylabel="test loss", title=curves[0][0].task.title)
        axes.title.set_fontsize("small")
        axes.legend(frameon=False, fontsize="small")
    return path


@contextmanager
def _saved(path: Path, rows: int, columns: int, size: tuple[float, float], **options: Any) -> Iterator[tuple[Any, Any]]:
    """Open a figure, and write it when its block ends; the same figure is the same file."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", **options)
    yield figure, axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
