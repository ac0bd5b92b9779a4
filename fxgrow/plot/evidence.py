"""Eigen-scores as a picture: site by site, at each moment at which they were measured."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from fxgrow.errors import AnalysisError
from fxgrow.plot.moments import Moment, moments
from fxgrow.plot.style import MARK, MARKERS, SERIES, Source, new_axes, table_of
from fxgrow.record.evidence import SiteEvidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scores(model: Source, *, at: Sequence[int] | None = None, axes: "Axes | None" = None) -> "Axes":
    """Draw the mean held-out score of every site, with its error bar, at the moments at which scores were measured.

    A mark is filled where the mean asks for growth by more than two standard errors. What was measured before an event
    is what became of the one before.

    Args:
        model: A model that was analyzed or grown, its table, or a run.
        at: Which moments, counted from 0: before event 1, before event 2, ..., and last now, where the nodes carry
            scores of the graph as it is. All of them if left out.
        axes: Where to draw; new axes of pyplot if left out.

    Raises:
        AnalysisError: If there are no such scores.

    Example:
        >>> fxgrow.plot.scores(grown, at=[0, -1])  # doctest: +SKIP
    """
    found = [moment for moment in moments(table_of(model)) if _measured(moment)]
    try:
        chosen = found if at is None else [found[place] for place in at]
    except IndexError:
        chosen = []
    if not chosen:
        what = f"it has scores of {len(found)} moments" + (f", and {list(at)} are asked for" if at else "")
        raise AnalysisError(what, where="the model", fix="measure them: fxgrow.analyze(traced, loss_fn, batches)")
    return draw_moments(chosen, axes)


def draw_moments(chosen: Sequence[Moment], axes: "Axes | None" = None) -> "Axes":
    """Draw the scores of some moments, each with a colour and a mark of its own."""
    sites = list(dict.fromkeys(site.site for moment in chosen for site in moment.sites))
    axes = new_axes(axes, width=5.5, height=1.2 + 0.2 * len(sites))
    for number, moment in enumerate(chosen):
        _draw(axes, moment, sites, number, shift=0.5 * ((number + 0.5) / len(chosen) - 0.5))
    axes.axvline(0, color=MARK, linewidth=0.8)
    _scale(axes, [site for moment in chosen for site in moment.sites])
    axes.set_yticks(range(len(sites)), sites, fontsize=7)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_xlabel("mean held-out score ± standard error")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(chosen), 3), frameon=False)
    return axes


def _draw(axes: "Axes", moment: Moment, sites: Sequence[str], number: int, shift: float) -> None:
    places = {path: line for line, path in enumerate(sites)}
    colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
    common: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linestyle": "none", "elinewidth": 1}
    for asks in (True, False):
        group = [site for site in moment.sites if site.asks is asks and site.held_out is not None]
        axes.errorbar(
            [float(site.held_out or 0) for site in group],
            [places[site.site] + shift for site in group],
            xerr=[float(site.stderr or 0) for site in group],
            markerfacecolor=colour if asks else "none",
            **common,
        )
    axes.plot([], [], color=colour, marker=marker, markersize=4, linestyle="none", label=moment.label)


def _scale(axes: "Axes", sites: Sequence[SiteEvidence]) -> None:
    """Scale by powers of ten, since scores of two layers lie that far apart; by what is below the errors, evenly."""
    from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

    greatest = max((abs(site.held_out) for site in sites if site.held_out), default=1.0)
    errors = [site.stderr for site in sites if site.stderr]
    linear = max(median(errors) if errors else 0.0, 1e-3 * greatest)
    axes.set_xscale("symlog", linthresh=linear, linscale=1)
    locator = SymmetricalLogLocator(base=10, linthresh=linear)
    locator.set_params(numticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_minor_locator(NullLocator())
    # the ends of the even part stand too close to zero for a label
    spelled = FuncFormatter(lambda value, _: f"{value:g}" if value == 0 or abs(value) > 3 * linear else "")
    axes.xaxis.set_major_formatter(spelled)


def _measured(moment: Moment) -> bool:
    return any(site.held_out is not None for site in moment.sites)
