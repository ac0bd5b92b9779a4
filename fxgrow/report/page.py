"""The page: what a run says, put into the template."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from fxgrow import __version__
from fxgrow.errors import FileError
from fxgrow.files import check_output
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.inspection.quantities import count, short, two_digits
from fxgrow.inspection.summary import summarize_table, work
from fxgrow.plot.evidence import draw_moments
from fxgrow.plot.moments import Moment, event_label, moments
from fxgrow.plot.training import draw_history
from fxgrow.record.evidence import SiteEvidence
from fxgrow.record.record import WAKING, GrowthEvent
from fxgrow.report.figures import svg
from fxgrow.report.network import blocks, spelled_runs
from fxgrow.report.waking import block_times
from fxgrow.results import Epoch, Results

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes

#: The quantities that are drawn, with their units, where the metrics have them.
_DRAWN = {
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "train_loss": "training loss",
    "parameters": "parameters",
    "flops": "FLOPs of one sample",
    "learning_rate": "learning rate",
}


_WIDTH = 3.8  #: of a picture, in inches: a phone shows it at its size


@dataclass(frozen=True)
class EventSection:
    """What the page says of one growth event."""

    name: str  #: short, for anchors
    label: str
    event: GrowthEvent
    before: dict[str, SiteEvidence]
    after: dict[str, SiteEvidence]
    after_label: str  #: when that was measured; empty where it was not
    picture: Markup

    @property
    def woke(self) -> bool:
        """Whether blocks woke, by a schedule: there is no evidence to show then."""
        return all(growth.kind == WAKING for growth in self.event.growths)


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs."""

    quantity: str
    label: str
    picture: Markup
    epochs: tuple[int, ...]
    rows: dict[str, dict[int, float]]  #: the values by model and epoch


def render_report(run: Results, *, compare: Sequence[Results] = ()) -> str:
    """Return the page of a run: one HTML document that needs no network and no script.

    Args:
        run: What to show (`fxgrow.results.read_results`).
        compare: Other runs, whose models stand beside this one's.

    Raises:
        FileError: If matplotlib or jinja2 is not installed.
    """
    metrics = _beside(run, compare)
    page = _template().render(
        run=run,
        version=__version__,
        work=work(summarize_table(run.table)) if run.table.flops else "",
        blocks=blocks(run.table),
        times=block_times(run.table),
        span=max([len(run.table.record.history) + 1, *(line["epoch"] for lines in metrics.values() for line in lines)]),
        events=_events(run),
        curves=[_curve(run, metrics, name) for name in _DRAWN if _has(metrics, name)],
        ends={name: lines[-1] for name, lines in metrics.items()},
        starts={name: lines[0] for name, lines in metrics.items()},
    )
    return f"{page.strip()}\n"


def write_report(
    run: Results, path: str | os.PathLike[str], *, compare: Sequence[Results] = (), overwrite: bool = False
) -> Path:
    """Write the page of a run, whole or not at all, and return where it lies.

    Args:
        run: What to show.
        path: The HTML file.
        compare: Other runs to stand beside it.
        overwrite: Whether a file that is there is replaced.

    Raises:
        FileError: If there is such a file, it cannot be written, or matplotlib or jinja2 is not installed.

    Example:
        >>> fxgrow.report.write_report(fxgrow.results.read_results("runs/digits"), "report.html")  # doctest: +SKIP
    """
    check_output(path, overwrite=overwrite)
    page = render_report(run, compare=compare)
    with whole_or_nothing(Path(path)) as stream:
        stream.write(page.encode())
    return Path(path)


def _template() -> "Template":
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise FileError("it needs jinja2", where="the report", fix="pip install 'fxgrow[report]'") from error
    environment = Environment(
        loader=PackageLoader("fxgrow.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"count": count, "short": short, "score": two_digits, "runs": spelled_runs, "plain": _plain}
    return environment.get_template("report.html.j2")


def _plain(number: float) -> str:
    """Spell a number of a table: whole ones in full, others with four digits."""
    return f"{number:,.0f}" if float(number).is_integer() and abs(number) >= 10 else f"{number:.4g}"


def _beside(run: Results, others: Sequence[Results]) -> dict[str, Sequence[Epoch]]:
    """Return the metrics of all models; those of another run carry its name."""
    metrics = dict(run.metrics)
    for other in others:
        metrics |= {f"{other.name}: {name}": lines for name, lines in other.metrics.items()}
    return metrics


def _has(metrics: dict[str, Sequence[Epoch]], quantity: str) -> bool:
    return any(quantity in line for lines in metrics.values() for line in lines)


def _events(run: Results) -> list[EventSection]:
    """Return what is known of each event: the moment before it, and the next one at which scores were measured."""
    measured = {moment.label: moment for moment in moments(run.table)}
    labels = [event_label(number, event) for number, event in enumerate(run.table.record.history, 1)]
    found = []
    for number, (label, event) in enumerate(zip(labels, run.table.record.history, strict=True), 1):
        following = next((measured[name] for name in [*labels[number:], "now"] if name in measured), None)
        before = measured.get(label)
        found.append(_event(number, label, event, before, following if before else None))
    return found


def _event(number: int, label: str, event: GrowthEvent, before: Moment | None, after: Moment | None) -> EventSection:
    before_sites, after_sites = ({site.site: site for site in m.sites} if m else {} for m in (before, after))
    after_label = "" if after is None else "at the end" if after.label == "now" else f"before {after.label}"
    picture = Markup()
    if before is not None:
        shown = [Moment("before", before.sites)]
        shown += [Moment(f"after: {after_label}", after.sites)] if after else []
        height = 1.1 + 0.19 * len(before_sites | after_sites)
        text = f"Mean held-out score of each site before {label} and after it; the table below has the numbers"
        picture = svg(partial(draw_moments, shown), name=f"event{number}", label=text, size=(_WIDTH, height))
    return EventSection(f"event-{number}", label, event, before_sites, after_sites, after_label, picture)


def _curve(run: Results, metrics: dict[str, Sequence[Epoch]], quantity: str) -> Curve:
    known = {name: lines for name, lines in metrics.items() if any(quantity in line for line in lines)}
    rows = {name: {int(at["epoch"]): at[quantity] for at in lines if quantity in at} for name, lines in known.items()}
    epochs = tuple(sorted({epoch for values in rows.values() for epoch in values}))
    draw = partial(_draw_curve, known, run.table.record.history, quantity)
    text = f"{_DRAWN[quantity]} over the epochs of {', '.join(known)}, growth events marked; the table below has it"
    picture = svg(draw, name=quantity, label=text, size=(_WIDTH, 2.6))
    return Curve(quantity, _DRAWN[quantity], picture, epochs, rows)


def _draw_curve(
    metrics: Mapping[str, Sequence[Epoch]], events: Sequence[GrowthEvent], quantity: str, axes: "Axes"
) -> None:
    draw_history(metrics, events, quantity, axes).set_title("")
