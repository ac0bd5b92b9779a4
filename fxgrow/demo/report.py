"""What the demo says: each growth event, and the table at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fxgrow.curvature import SiteScores
from fxgrow.demo.loop import EpochMetrics
from fxgrow.record.record import Growth
from fxgrow.training.grower import GrowthReport


def growth_text(number: int, events: int, report: GrowthReport) -> Group:
    """Say what one growth event did, in at most 80 columns.

    The eigen-score of a site is the mean held-out score of the neurons that grew, with its standard error.
    """
    event = report.event
    neurons = sum(site.neurons for site in event.growths)
    first = (
        f"\nGrowth event {number} of {events}, before epoch {event.context['epoch'] + 1}: {neurons} neurons at "
        f"{len(event.growths)} sites, {report.seconds:.0f} s"
    )
    added = event.parameters_after - event.parameters_before
    last = (
        f"  parameters {event.parameters_before:,} -> {event.parameters_after:,}"
        f" (+{added / event.parameters_before:.1%})"
        f"\n  loss on the same batch {report.loss_before:.6f} -> {report.loss_after:.6f}\n"
    )
    return Group(Text(first, style="bold"), _sites_table(event.growths, report.scores), Text(last))


def _sites_table(growths: Sequence[Growth], scores: Mapping[str, SiteScores]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("  site", no_wrap=True)
    for heading in ("neurons", "eigen-score", "error", "significant"):
        table.add_column(heading, justify="right", no_wrap=True)
    for growth in growths:
        significant = int(scores[growth.site].significant.sum())
        of_all = f"{significant} of {len(scores[growth.site].values)}"
        evidence = growth.evidence
        spelled = with_error(evidence.held_out, evidence.stderr) if evidence else ("", "")
        table.add_row(f"  {growth.site}", str(growth.neurons), *spelled, of_all)
    return table


def with_error(value: float | None, error: float | None) -> tuple[str, str]:
    """Spell a value with as many decimals as its error has, at two significant digits; empty where it is not known.

    Example:
        >>> with_error(-0.03217, 0.00046)
        ('-0.03217', '± 0.00046')
    """
    if value is None or error is None:
        return "", ""
    decimals = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 6
    return f"{value:.{decimals}f}", f"± {error:.{decimals}f}"


def milestones(metrics: Sequence[EpochMetrics]) -> list[tuple[str, EpochMetrics]]:
    """Return, with names, the start and the end of one model's training, and the moment after each growth event.

    What was measured before an event holds after it, but for the model's size.
    """
    grows = [(old, new) for old, new in pairwise(metrics) if new.parameters > old.parameters]
    events = [
        (f"event {number}", replace(old, parameters=new.parameters, flops=new.flops))
        for number, (old, new) in enumerate(grows, start=1)
    ]
    return [("start", metrics[0]), *events, ("end", metrics[-1])]


def results_table(runs: Mapping[str, Sequence[EpochMetrics]]) -> Table:
    """Return the table of the demo: the grown model's milestones, and the end of the models beside it."""
    table = Table(box=box.SIMPLE_HEAD, title="Test results on 1,000 digits", title_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("epoch", "parameters", "MFLOPs", "test loss", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, metrics in runs.items():
        rows = milestones(metrics) if name == "grown" else [("end", metrics[-1])]
        for moment, at in rows:
            table.add_row(
                f"{name}, {moment}",
                str(at.epoch),
                f"{at.parameters:,}",
                f"{at.flops / 1e6:.1f}",
                f"{at.test_loss:.4f}",
                f"{at.test_accuracy:.1%}",
            )
    return table
