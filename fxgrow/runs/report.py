"""What a run says: what is trained, each growth event, and the table at the end."""

import math
import os
import platform
from collections.abc import Mapping, Sequence

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fxgrow.curvature import SiteScores
from fxgrow.progressive import Advance
from fxgrow.record.record import Growth
from fxgrow.runs.growing import RunEvent
from fxgrow.runs.metrics import EpochMetrics, milestones
from fxgrow.runs.run import Run
from fxgrow.runs.settings import Settings
from fxgrow.training import GrowthReport


def preparation(settings: Settings) -> str:
    """Say what is done before anything is known of a run: making data and tracing take up to a minute."""
    return f"preparing {settings.data.source} and {settings.model.name} ..."


def introduction(run: Run) -> str:
    """Say in two sentences what is trained, and on what."""
    settings, (train, test) = run.settings, run.batches.sizes
    where = f"{torch.get_num_threads()} of {os.cpu_count()} {platform.machine()} cores"
    if run.device.type == "cuda":
        where = torch.cuda.get_device_name(run.device)
    if run.ranks.count > 1:
        where = f"{run.ranks.count} processes, each on {where}"
    return (
        f"{settings.model.name}: {run.growing.parameters:,} parameters, {_flops(run.growing.flops)} an image\n"
        f"{settings.data.source}: {train:,} images to train on, {test:,} to test on; {settings.epochs} epochs of "
        f"{run.batches.steps:,} steps; seed {settings.seed}; torch {torch.__version__} on {where}, "
        f"{'compiled block by block' if settings.compile else 'eager'}"
    )


def _flops(count: int) -> str:
    return f"{count / 1e6:,.1f} MFLOPs" if count >= 1e6 else f"{count / 1e3:.1f} kFLOPs"


def event_text(event: RunEvent) -> Group:
    """Say what one growth event did, in at most 80 columns.

    The eigen-score of a site is the mean held-out score of the neurons that grew, with its standard error.
    """
    report = event.report
    title, body, last = _waking(report) if isinstance(report, Advance) else _growing(report)
    added = (event.parameters_after - event.parameters_before) / event.parameters_before
    size = f"  parameters {event.parameters_before:,} -> {event.parameters_after:,} (+{added:.1%})"
    when = f"step {event.step + 1} of epoch" if event.step else "epoch"
    first = f"\nGrowth event {event.number} of {event.planned}, before {when} {event.epoch + 1}: {title}"
    return Group(Text(first, style="bold"), body, Text(f"{size}{last}\n"))


def _growing(report: GrowthReport) -> tuple[str, Table, str]:
    growths = report.event.growths
    neurons = sum(site.neurons for site in growths)
    loss = f"\n  loss on the same batch {report.loss_before:.6f} -> {report.loss_after:.6f}"
    return f"{neurons} neurons at {len(growths)} sites, {report.seconds:.0f} s", _sites(growths, report.scores), loss


def _sites(growths: Sequence[Growth], scores: Mapping[str, SiteScores]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("  site", no_wrap=True)
    for heading in ("neurons", "eigen-score", "error", "significant"):
        table.add_column(heading, justify="right", no_wrap=True)
    for growth in growths:
        significant = int(scores[growth.site].significant.sum())
        of_all = f"{significant} of {len(scores[growth.site].values)}"
        evidence = growth.evidence
        spelled = value_and_error(evidence.held_out, evidence.stderr) if evidence else ("", "")
        table.add_row(f"  {growth.site}", str(growth.neurons), *spelled, of_all)
    return table


def _waking(advance: Advance) -> tuple[str, Text, str]:
    blocks = sum(map(len, advance.woken.values()))
    lines = [f"  {', '.join(woken)} from {source}" for source, woken in advance.woken.items()]
    return f"{blocks} block{'s wake' if blocks > 1 else ' wakes'} as half-steps", Text("\n".join(lines)), ""


def value_and_error(value: float | None, error: float | None) -> tuple[str, str]:
    """Spell a value with as many decimals as its error has, at two significant digits; empty where it is not known.

    Example:
        >>> value_and_error(-0.03217, 0.00046)
        ('-0.03217', '± 0.00046')
    """
    if value is None or error is None:
        return "", ""
    decimals = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 6
    return f"{value:.{decimals}f}", f"± {error:.{decimals}f}"


def results_table(runs: Mapping[str, Sequence[EpochMetrics]], title: str) -> Table:
    """Return the milestones of the first run, and the ends of those beside it."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("epoch", "parameters", "MFLOPs", "test loss", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (name, metrics) in enumerate(runs.items()):
        for moment, at in milestones(metrics) if index == 0 else [("end", metrics[-1])]:
            table.add_row(
                f"{name}, {moment}",
                str(at.epoch),
                f"{at.parameters:,}",
                f"{at.flops / 1e6:,.1f}",
                f"{at.test_loss:.4f}",
                f"{at.test_accuracy:.1%}",
            )
    return table
