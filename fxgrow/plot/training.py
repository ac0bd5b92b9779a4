"""Training as a picture: a quantity over the epochs, with the growth events marked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fxgrow.errors import DataError, did_you_mean
from fxgrow.plot.style import DASHES, MARK, SERIES, Source, new_axes, table_of
from fxgrow.record.record import GrowthEvent
from fxgrow.results import Epoch, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What changes at once, at an event, and stays until the next.
STEPWISE = ("parameters", "flops")


def history(source: Source, quantity: str = "parameters", *, axes: "Axes | None" = None) -> "Axes":
    """Draw a quantity over the epochs of a run, with the growth events marked.

    Args:
        source: A run (`fxgrow.results.read_results`), each of whose models is a line; or a model, which remembers its
            ``"parameters"`` before and after each event alone.
        quantity: A column of the run's metrics, as in ``"test_loss"``.
        axes: Where to draw; new axes of pyplot if left out.

    Raises:
        DataError: If the run has no such metric.

    Example:
        >>> fxgrow.plot.history(fxgrow.results.read_results("runs/digits"), "test_accuracy")  # doctest: +SKIP
    """
    events = table_of(source).record.history
    metrics = source.metrics if isinstance(source, Results) else {}
    return draw_history(metrics or {"model": _remembered(events)}, events, quantity, axes)


def draw_history(
    metrics: Mapping[str, Sequence[Epoch]],
    events: Sequence[GrowthEvent],
    quantity: str,
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw a quantity of several models, and where one of them grew."""
    known = sorted({name for lines in metrics.values() for line in lines for name in line})
    if quantity not in known:
        fix = f"{did_you_mean(quantity, known)}there are {', '.join(known) or 'none'}"
        raise DataError("there is no such metric", where=quantity, fix=fix)
    axes = new_axes(axes, width=4.6, height=3)
    for number, (name, lines) in enumerate(metrics.items()):
        points = [line for line in lines if quantity in line]
        axes.plot(
            [line["epoch"] for line in points],
            [line[quantity] for line in points],
            color=SERIES[number % len(SERIES)],
            linestyle=DASHES[number % len(DASHES)],
            drawstyle="steps-pre" if quantity in STEPWISE else "default",
            label=name,
        )
    for number, event in enumerate(events, 1):
        _mark_event(axes, number, event)
    axes.set(xlabel="epoch", title=quantity.replace("_", " "))
    axes.grid(alpha=0.3)
    if len(metrics) > 1:
        axes.legend(fontsize=8, frameon=False)
    return axes


def _mark_event(axes: "Axes", number: int, event: GrowthEvent) -> None:
    when = event.context.get("epoch")
    if isinstance(when, int | float):
        axes.axvline(when, color=MARK, linewidth=0.8, linestyle=":")
        axes.annotate(f"▲{number}", (when, 0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7)


def _remembered(events: Sequence[GrowthEvent]) -> list[Epoch]:
    """Return what a model remembers of its size: the parameters before and after each event."""
    lines: list[Epoch] = []
    for number, event in enumerate(events, 1):
        when = event.context.get("epoch", number)
        sizes = (event.parameters_before, event.parameters_after)
        lines += [{"epoch": float(when), "parameters": float(size)} for size in sizes]
    return lines
