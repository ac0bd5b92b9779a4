"""Loss against cost, one figure for each task that has a frontier."""

from pathlib import Path

import numpy as np

from study.groups import FRONTIERS, Frontier
from study.lines import line
from study.records import Records


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


def _figure(curves: list[Curve], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem  # the same figure is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for frontier, points in curves:
        cost, loss, spread = zip(*points, strict=True)
        axes.errorbar(cost, loss, yerr=spread, marker="o", capsize=2, label=frontier.title)
    axes.set(xlabel="cost, the baseline = 1", ylabel="test loss", title=curves[0][0].task.title)
    axes.title.set_fontsize("small")
    axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
