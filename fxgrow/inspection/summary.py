"""The summary of a model: what it is, how big it is, how it grew, and what its scores were measured on."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fxgrow.files.table import InputSpec, Table
from fxgrow.inspection.document import Grid, Line, Part, parts
from fxgrow.inspection.quantities import count, plain_text, quantity, shape_text, two_digits
from fxgrow.record.record import GrowthEvent, Origin


@dataclass(frozen=True)
class ScoreSource:
    """What the scores of a model were measured on."""

    score: str
    sign: int  #: -1 where a small score asks for growth, as an eigenvalue does
    matrices: tuple[str, ...]
    samples: int
    reliability: float | None  #: median over the sites of the rank correlation of the two halves' scores
    stale: bool  #: whether some were measured before the last change of the graph


@dataclass(frozen=True)
class Summary:
    """A model in a few numbers."""

    name: str
    origin: Origin | None
    digest: str
    parameters: int
    base_parameters: int  #: before the first growth event
    flops: int  #: of one forward pass on `inputs`, two for a multiply-add; 0 where not known
    inputs: tuple[InputSpec, ...]
    nodes: int
    sites: int
    can_grow: int  #: sites that may grow, if only when they are included by name
    grew: int  #: sites with a pseudo-layer
    depth: int  #: the most pseudo-layers that a neuron goes through
    scores: ScoreSource | None
    notes: tuple[str, ...]  #: what tracing had to give up
    history: tuple[GrowthEvent, ...]


def summarize_table(table: Table) -> Summary:
    """Return the summary of the model that a table describes."""
    sites = {row.site.path: row.site for row in table.nodes if row.site}
    history = table.record.history
    return Summary(
        name=table.name,
        origin=table.record.origin,
        digest=table.digest,
        parameters=table.parameters,
        base_parameters=history[0].parameters_before if history else table.parameters,
        flops=table.flops,
        inputs=table.inputs,
        nodes=len(table.nodes),
        sites=len(sites),
        can_grow=sum(site.refusal is None for site in sites.values()),
        grew=sum(site.depth > 0 for site in sites.values()),
        depth=max((site.depth for site in sites.values()), default=0),
        scores=_score_source(table),
        notes=table.record.trace_notes,
        history=history,
    )


def _score_source(table: Table) -> ScoreSource | None:
    found = [row.annotation["scores"] for row in table.nodes if "scores" in row.annotation]
    if not found:
        return None
    reliabilities = [value for entry in found if (value := entry.get("reliability")) is not None]
    return ScoreSource(
        score=found[0]["score"],
        sign=found[0].get("sign", -1),
        matrices=tuple(sorted({entry["matrix"] for entry in found if entry["matrix"]})),
        samples=found[0]["samples"],
        reliability=statistics.median(reliabilities) if reliabilities else None,
        stale=any(entry["digest"] != table.digest for entry in found),
    )


def title(summary: Summary) -> Line:
    """Return the model's name, and how it was built."""
    origin = summary.origin
    if origin is None:
        return Line(plain_text(summary.name), "title")
    arguments = [f"{name}={value}" for name, value in origin.arguments.items()]
    return Line(plain_text(origin.name), "title", plain_text(", ".join([origin.source, *arguments])))


@parts.register
def _(summary: Summary) -> Iterator[Part]:
    yield Line(_size(summary))
    if summary.flops:
        yield Line(work(summary))
    yield Line(_sites(summary))
    if summary.scores is not None:
        yield Line(_scores(summary.scores))
        if summary.scores.stale:
            yield Line("the scores were measured before the last change of the graph", "warning")
    yield from (Line(f"note: {plain_text(note)}", "warning") for note in summary.notes)
    if summary.history:
        yield Line()
        yield event_grid(summary.history)


def _size(summary: Summary) -> str:
    line = f"{summary.parameters:,} parameters"
    if not summary.history:
        return line
    gained = (summary.parameters - summary.base_parameters) / max(summary.base_parameters, 1)
    return f"{line}, {gained * 100:+.1f} % on {summary.base_parameters:,}"


def work(summary: Summary) -> str:
    """Spell the FLOPs of one sample, where all inputs have the batch in front, or else of the traced inputs."""
    shapes = [shape for spec in summary.inputs for shape, _ in spec.tensors]
    batches = {shape[:1] for shape in shapes}
    if len(batches) == 1 and all(batch and batch[0] for batch in batches):
        sample = ", ".join(shape_text(shape[1:]) or "1" for shape in shapes)
        return f"{quantity(summary.flops / shapes[0][0], 'FLOPs')} for one sample of {sample}"
    return quantity(summary.flops, "FLOPs") + "".join(f", {shape_text(shape)}" for shape in shapes)


def _sites(summary: Summary) -> str:
    line = f"{summary.sites} site{'s' if summary.sites != 1 else ''}, {summary.can_grow} can grow"
    if not summary.depth:
        return line
    return f"{line}; {summary.grew} grew, up to {summary.depth} pseudo-layer{'s' if summary.depth > 1 else ''} deep"


def _scores(scores: ScoreSource) -> str:
    matrices = f" ({', '.join(scores.matrices)})" if scores.matrices else ""
    line = f"{scores.score} scores{matrices} of {scores.samples} samples"
    return line if scores.reliability is None else f"{line}, split-half correlation {scores.reliability:.2f}"


def event_grid(history: tuple[GrowthEvent, ...]) -> Grid:
    """Return growth events as a table, one line each."""
    headings = ("growth", "parameters", "sites", "neurons", "operator", "held-out score")
    rows = tuple(_event(number, event) for number, event in enumerate(history, start=1))
    return Grid(headings, rows, right=("sites", "neurons"))


def _event(number: int, event: GrowthEvent) -> tuple[str, ...]:
    neurons = sum(grown.neurons for grown in event.growths)
    return (
        f"{number}{when(event.context)}",
        f"{count(event.parameters_before)} → {count(event.parameters_after)}",
        f"{len({grown.place for grown in event.growths})}",
        count(neurons) if neurons else "",
        ", ".join(sorted({grown.operator or grown.kind for grown in event.growths})),
        _mean_score(event),
    )


def when(context: Mapping[str, Any]) -> str:
    """Say when an event was, if the training loop told."""
    return next((f" ({unit} {context[unit]})" for unit in ("epoch", "step") if unit in context), "")


def _mean_score(event: GrowthEvent) -> str:
    """Spell the mean held-out score of the neurons that grew, with its standard error."""
    scored = [(grown.evidence, grown.neurons) for grown in event.growths if grown.evidence is not None]
    known = [(e.held_out, e.stderr, n) for e, n in scored if e.held_out is not None and e.stderr is not None]
    total = sum(neurons for *_, neurons in known)
    if not total:
        return ""
    mean = sum(held_out * neurons for held_out, _, neurons in known) / total
    error = sum((stderr * neurons) ** 2 for _, stderr, neurons in known) ** 0.5 / total
    return with_error(mean, error)


def with_error(value: float, error: float) -> str:
    """Spell a number and its error."""
    return f"{two_digits(value)} ± {two_digits(error)}"
