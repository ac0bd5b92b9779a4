"""What is said of an item of a tree, in whatever format it is set."""

from collections.abc import Iterator, Sequence

from fxgrow.inspection.outline import Item
from fxgrow.inspection.quantities import (
    count,
    meter,
    percent,
    plain_text,
    shape_text,
    sparkline,
    two_digits,
)
from fxgrow.inspection.scores import ScoreSummary

HEADINGS = ("module", "operation", "output", "parameters", "depth")
NUMBERS = ("parameters", "depth")  # set to the right
_BAR_WIDTH = 8

#: texts and their styles, as rich spells styles
Pieces = Sequence[tuple[str, str]]


def label(item: Item) -> str:
    """Return the name of an item, marked if it grew."""
    return ("⊕ " if item.kind == "pseudo-layer" else "") + plain_text(item.label)


def cells(item: Item) -> tuple[str, ...]:
    """Return what stands below each heading but the first."""
    operation, output = plain_text(item.operation), shape_text(item.shape)
    parameters = count(item.parameters) if item.parameters else ""
    if item.kind == "alike":
        operation, parameters = f"{item.alike} alike", f"{item.alike} × {parameters}"
    elif item.alike > 1:
        operation = f"{item.alike} × {operation}"
    if item.kind == "pseudo-layer" and item.grown_rows and item.grown_rows[0]:
        output = f"→ {item.grown_rows[0]} of {item.grown_rows[1]}"
    return operation, output, parameters, str(item.depth) if item.depth else ""


def details(item: Item) -> Iterator[Pieces]:
    """Yield what stands in lines of its own below an item: its scores, and why nothing grows there."""
    if item.scores is not None:
        yield tuple(_score_pieces(item.scores))
    if item.remark:
        yield ((plain_text(item.remark), "yellow"),)


def _score_pieces(scores: ScoreSummary) -> Iterator[tuple[str, str]]:
    """Yield the extreme, the median, and the share of neurons that is significant."""
    style = "dim" if scores.stale else ""
    for name, value in (("least" if scores.sign < 0 else "greatest", scores.extreme), ("median", scores.median)):
        yield f"{name} ", "dim"
        yield f"{two_digits(value):<7}  ", style
    alike = 1 < len(scores.shares) <= 2 * _BAR_WIDTH
    bar = sparkline(scores.shares) if alike else meter(scores.share, _BAR_WIDTH)
    yield bar.ljust(_BAR_WIDTH), "red"
    yield f" {percent(scores.share):>5}", style
