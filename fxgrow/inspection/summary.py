"""The summary of a model: what it is, how big it is, how it grew, and what its scores were measured on."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from fxgrow.files.table import Table
from fxgrow.inspection.quantities import Glyphs, count, plain_text, shape_text, short, two_digits
from fxgrow.record.record import GrowthEvent


def title(table: Table) -> Text:
    """Return the model's name, and how it was built."""
    origin = table.record.origin
    if origin is None:
        return Text(plain_text(table.name), style="bold")
    line = Text(plain_text(origin.name), style="bold")
    arguments = [f"{name}={value}" for name, value in origin.arguments.items()]
    return line.append(plain_text(f"  {', '.join([origin.source, *arguments])}"), style="not bold dim")


def size_line(table: Table) -> Text:
    """Return the parameters, and how many more they are than the base's."""
    line = Text(f"{table.parameters:,} parameters")
    if table.record.history:
        before = table.record.history[0].parameters_before
        gained = (table.parameters - before) / before
        line.append(f", {gained * 100:+.1f} % on {before:,}")
    return line


def work_line(table: Table, glyphs: Glyphs) -> Text | None:
    """Return the FLOPs of one sample, where all inputs have the batch in front, or else of the traced inputs."""
    if not table.flops:
        return None
    shapes = [shape for spec in table.inputs for shape, _ in spec.tensors]
    batches = {shape[:1] for shape in shapes}
    if len(batches) == 1 and all(batch and batch[0] for batch in batches):
        sample = ", ".join(shape_text(shape[1:], glyphs) or "1" for shape in shapes)
        return Text(f"{short(table.flops / shapes[0][0])}FLOPs for one sample of {sample}")
    return Text(f"{short(table.flops)}FLOPs" + "".join(f", {shape_text(shape, glyphs)}" for shape in shapes))


def site_line(table: Table) -> Text:
    """Return how many sites there are, can grow, and grew."""
    sites = {row.site.path: row.site for row in table.nodes if row.site}
    growable = sum(site.refusal is None for site in sites.values())
    line = Text(f"{len(sites)} site{'s' if len(sites) != 1 else ''}, {growable} can grow")
    depth = max((site.depth for site in sites.values()), default=0)
    if depth:
        grew = sum(site.depth > 0 for site in sites.values())
        line.append(f"; {grew} grew, up to {depth} pseudo-layer{'s' if depth > 1 else ''} deep")
    return line


def score_lines(table: Table) -> Iterator[Text]:
    """Yield what the scores were measured on."""
    found = [row.annotation["scores"] for row in table.nodes if "scores" in row.annotation]
    if not found:
        return
    matrices = ", ".join(sorted({entry["matrix"] for entry in found if entry["matrix"]}))
    line = Text(f"{found[0]['score']} scores" + (f" ({matrices})" if matrices else ""))
    line.append(f" of {found[0]['samples']} samples")
    reliabilities = [value for entry in found if (value := entry.get("reliability")) is not None]
    if reliabilities:
        line.append(f", split-half correlation {statistics.median(reliabilities):.2f}")
    yield line
    if any(entry["digest"] != table.digest for entry in found):
        yield Text("the scores were measured before the last change of the graph", style="yellow")


def notes(table: Table) -> Iterator[Text]:
    """Yield what tracing had to give up."""
    for note in table.record.trace_notes:
        yield Text(f"note: {plain_text(note)}", style="yellow")


def history(table: Table, glyphs: Glyphs) -> Grid | None:
    """Return the growth events as a table; None where nothing grew."""
    if not table.record.history:
        return None
    grid = Grid(box=None, padding=(0, 1), pad_edge=False, header_style="dim", show_edge=False)
    for heading in ("growth", "parameters", "sites", "neurons", "operator", "held-out score"):
        grid.add_column(heading, justify="right" if heading in ("sites", "neurons") else "left")
    for number, event in enumerate(table.record.history, start=1):
        grid.add_row(*_event(number, event, glyphs))
    return grid


def _event(number: int, event: GrowthEvent, glyphs: Glyphs) -> tuple[Text, ...]:
    operators = ", ".join(sorted({grown.operator or grown.kind for grown in event.growths}))
    cells = (
        f"{number}" + _when(event.context),
        f"{count(event.parameters_before)} {glyphs.arrow} {count(event.parameters_after)}",
        f"{len({grown.site for grown in event.growths})}",
        f"{sum(grown.neurons for grown in event.growths):,}",
        operators,
        _mean_score(event, glyphs),
    )
    return tuple(Text(plain_text(cell)) for cell in cells)


def _when(context: Mapping[str, Any]) -> str:
    """Say when an event was, if the training loop told."""
    for unit in ("epoch", "step"):
        if unit in context:
            return f" ({unit} {context[unit]})"
    return ""


def _mean_score(event: GrowthEvent, glyphs: Glyphs) -> str:
    """Spell the mean held-out score of the neurons that grew, with its standard error."""
    scored = [(grown.evidence, grown.neurons) for grown in event.growths if grown.evidence is not None]
    known = [(e.held_out, e.stderr, n) for e, n in scored if e.held_out is not None and e.stderr is not None]
    total = sum(neurons for *_, neurons in known)
    if not total:
        return ""
    mean = sum(held_out * neurons for held_out, _, neurons in known) / total
    error = sum((stderr * neurons) ** 2 for _, stderr, neurons in known) ** 0.5 / total
    return f"{two_digits(mean)} {glyphs.spread} {two_digits(error)}"


def legend(table: Table, glyphs: Glyphs, *, alike: bool) -> Iterator[Text]:
    """Yield what the marks in the tree mean, of those that are in it."""
    found = [row.annotation["scores"] for row in table.nodes if "scores" in row.annotation]
    if found:
        sign = "negative" if found[0].get("sign", -1) < 0 else "positive"
        yield Text(f"bar: share of neurons whose held-out score is {sign} by 2 standard errors", "dim")
        if alike:
            yield Text("bars side by side: the same site in each of the blocks that are alike", "dim")
    if any("provenance" in row.annotation for row in table.nodes):
        mark = glyphs.grown.strip()
        yield Text(f"{mark} pseudo-layer, {glyphs.arrow} residual edge to so many rows of the site above it", "dim")
