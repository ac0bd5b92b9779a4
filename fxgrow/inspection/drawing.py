"""Draw an outline as a tree with columns, in the width and the characters that the terminal has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from fxgrow.inspection.outline import Item
from fxgrow.inspection.quantities import (
    Glyphs,
    count,
    glyphs_of,
    meter,
    percent,
    plain_text,
    shape_text,
    sparkline,
    two_digits,
)
from fxgrow.inspection.score_summary import ScoreSummary

_GAP = "  "
_HEADINGS = ("module", "operation", "output", "parameters", "depth")
_NUMBERS = ("parameters", "depth")  # set to the right
_WIDEST_CELL = 18
_NARROWEST_LABEL = 10
_BAR_WIDTH = 8
_STYLES = {
    "container": "bold",
    "alike": "bold",
    "pseudo-layer": "green",
    "residual edge": "green",
    "parameter": "dim",
    "function": "dim",
}


@dataclass(frozen=True)
class _Line:
    """One item, ready to be set."""

    guide: str  #: in front of the label
    further: str  #: in front of all that follows below it
    label: str
    style: str
    cells: tuple[str, ...]  #: one for each heading but the first
    details: tuple[Text, ...]


@dataclass(frozen=True)
class ModelTree:
    """An outline as a rich renderable: no line is longer than the console is wide, and nothing is cut off."""

    root: Item

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the tree."""
        glyphs = glyphs_of(options)
        yield from _set(list(_lines(self.root.children, "", glyphs)), options.max_width)


def _lines(items: Sequence[Item], prefix: str, glyphs: Glyphs) -> Iterator[_Line]:
    """Yield the lines of sibling items and of all below them."""
    for index, item in enumerate(items):
        last = index == len(items) - 1
        below = prefix + (glyphs.blank if last else glyphs.bar)
        yield _Line(
            guide=prefix + (glyphs.last if last else glyphs.branch),
            further=below + (glyphs.bar if item.children else ""),
            label=(glyphs.grown if item.kind == "pseudo-layer" else "") + plain_text(item.label),
            style=_STYLES.get(item.kind, ""),
            cells=_cells(item, glyphs),
            details=tuple(_details(item, glyphs)),
        )
        yield from _lines(item.children, below, glyphs)


def _cells(item: Item, glyphs: Glyphs) -> tuple[str, str, str, str]:
    operation, output = plain_text(item.operation), shape_text(item.shape, glyphs)
    parameters = count(item.parameters) if item.parameters else ""
    if item.kind == "alike":
        operation, parameters = f"{item.alike} alike", f"{item.alike} {glyphs.times} {parameters}"
    elif item.alike > 1:
        operation = f"{item.alike} {glyphs.times} {operation}"
    if item.kind == "pseudo-layer" and item.grown_rows and item.grown_rows[0]:
        output = f"{glyphs.arrow} {item.grown_rows[0]} of {item.grown_rows[1]}"
    return operation, output, parameters, str(item.depth) if item.depth else ""


def _details(item: Item, glyphs: Glyphs) -> Iterator[Text]:
    if item.scores is not None:
        yield score_line(item.scores, glyphs)
    if item.remark:
        yield Text(plain_text(item.remark), style="yellow")


def score_line(scores: ScoreSummary, glyphs: Glyphs) -> Text:
    """Return the scores of a site in one line: the extreme, the median, and the share that is significant."""
    line = Text(style="dim" if scores.stale else "")
    for name, value in (("least" if scores.sign < 0 else "greatest", scores.extreme), ("median", scores.median)):
        line.append(f"{name} ", style="dim").append(f"{two_digits(value):<7}{_GAP}")
    alike = 1 < len(scores.shares) <= 2 * _BAR_WIDTH
    bar = sparkline(scores.shares, glyphs) if alike else meter(scores.share, _BAR_WIDTH, glyphs)
    line.append(bar.ljust(_BAR_WIDTH), style="red")
    return line.append(f" {percent(scores.share):>5}")


def _set(lines: list[_Line], available: int) -> Iterator[Text]:
    """Set lines in columns, the column of depths only where something grew."""
    if not lines:
        return
    columns = [i for i, heading in enumerate(_HEADINGS[1:]) if any(line.cells[i] for line in lines)]
    widths = {i: min(_WIDEST_CELL, max(len(_HEADINGS[i + 1]), *(len(li.cells[i]) for li in lines))) for i in columns}
    natural = max(len(_HEADINGS[0]), *(len(line.guide + line.label) for line in lines))
    least = max(len(line.guide) + min(len(line.label), _NARROWEST_LABEL) for line in lines)
    width = max(least, min(natural, available - sum(widths.values()) - len(_GAP) * len(widths)))
    yield _row(Text(_HEADINGS[0].ljust(width)), [_HEADINGS[i + 1] for i in columns], columns, widths, "dim")
    for line in lines:
        folded = [_fold(line.cells[i], widths[i]) for i in columns]
        labels = _fold(line.label, width - len(line.guide))
        for index, (label, *cells) in enumerate(zip_longest(labels, *folded, fillvalue="")):
            start = Text(line.guide if index == 0 else line.further, style="dim")
            start.append(label, style=line.style or "not dim")
            start.pad_right(width - start.cell_len)
            yield _row(start, cells, columns, widths, "")
        yield from _set_details(line, width, available)


def _row(start: Text, cells: Sequence[str], columns: Sequence[int], widths: dict[int, int], style: str) -> Text:
    row = start.copy()
    if style:
        row.stylize(style)
    for column, cell in zip(columns, cells, strict=True):
        right = _HEADINGS[column + 1] in _NUMBERS
        text = cell.rjust(widths[column]) if right else cell.ljust(widths[column])
        row.append(_GAP + text, style=style)
    row.rstrip()
    return row


def _set_details(line: _Line, width: int, available: int) -> Iterator[Text]:
    """Set details below the operation, or further left where they would not fit there."""
    for detail in line.details:
        fits = width + len(_GAP) + detail.cell_len <= available
        margin = width + len(_GAP) if fits else len(line.further) + len(_GAP)
        for piece in detail.wrap(_measuring, max(_NARROWEST_LABEL, available - margin)):
            start = Text(line.further, style="dim")
            start.pad_right(margin - start.cell_len)
            start.append_text(piece)
            start.rstrip()
            yield start


def _fold(text: str, width: int) -> list[str]:
    return [text[start : start + width] for start in range(0, len(text), width)] or [""]


_measuring = Console(width=80)
