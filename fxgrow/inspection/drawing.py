"""Draw an outline as a tree with columns, in the width and the characters that the terminal has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from fxgrow.inspection.outline import Item
from fxgrow.inspection.quantities import to_ascii
from fxgrow.inspection.wording import HEADINGS, NUMBERS, Pieces, cells, details, label

_GAP = "  "
_WIDEST_CELL = 18
_NARROWEST_LABEL = 10
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
    details: tuple[Pieces, ...]


@dataclass(frozen=True)
class ModelTree:
    """An outline as a rich renderable: no line is longer than the console is wide, and nothing is cut off."""

    root: Item

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the tree."""
        spell = to_ascii if options.ascii_only else str
        for pieces in _set(list(_lines(self.root.children, "", spell)), options.max_width):
            yield from _segments(pieces, console)


def _lines(items: Sequence[Item], prefix: str, spell: Callable[[str], str]) -> Iterator[_Line]:
    """Yield the lines of sibling items and of all below them."""
    for index, item in enumerate(items):
        last = index == len(items) - 1
        below = prefix + ("   " if last else "│  ")
        yield _Line(
            guide=spell(prefix + ("└─ " if last else "├─ ")),
            further=spell(below + ("│  " if item.children else "")),
            label=spell(label(item)),
            style=_STYLES.get(item.kind, ""),
            cells=tuple(map(spell, cells(item))),
            details=tuple([(spell(text), style) for text, style in line] for line in details(item)),
        )
        yield from _lines(item.children, below, spell)


def _set(lines: list[_Line], available: int) -> Iterator[Pieces]:
    """Set lines in columns, the column of depths only where something grew."""
    if not lines:
        return
    columns = [i for i, heading in enumerate(HEADINGS[1:]) if any(line.cells[i] for line in lines)]
    widths = {i: min(_WIDEST_CELL, max(len(HEADINGS[i + 1]), *(len(li.cells[i]) for li in lines))) for i in columns}
    natural = max(len(HEADINGS[0]), *(len(line.guide + line.label) for line in lines))
    least = max(len(line.guide) + min(len(line.label), _NARROWEST_LABEL) for line in lines)
    width = max(least, min(natural, available - sum(widths.values()) - len(_GAP) * len(widths)))
    headings = [HEADINGS[i + 1] for i in columns]
    yield [(HEADINGS[0].ljust(width) + _columns(headings, columns, widths), "dim")]
    for line in lines:
        folded = [_fold(line.cells[i], widths[i]) for i in columns]
        labels = _fold(line.label, width - len(line.guide))
        for index, (name, *rest) in enumerate(zip_longest(labels, *folded, fillvalue="")):
            guide = line.guide if index == 0 else line.further
            padding = " " * (width - cell_len(guide + name))
            yield [(guide, "dim"), (name, line.style), (padding + _columns(rest, columns, widths), "")]
        yield from _set_details(line, width, available)


def _columns(cells: Sequence[str], columns: Sequence[int], widths: dict[int, int]) -> str:
    set_right = [HEADINGS[column + 1] in NUMBERS for column in columns]
    return "".join(
        _GAP + (cell.rjust(widths[column]) if right else cell.ljust(widths[column]))
        for cell, column, right in zip(cells, columns, set_right, strict=True)
    )


def _set_details(line: _Line, width: int, available: int) -> Iterator[Pieces]:
    """Set details below the operation, or further left where they would not fit there."""
    for detail in line.details:
        length = cell_len("".join(text for text, _ in detail))
        fits = width + len(_GAP) + length <= available
        margin = width + len(_GAP) if fits else len(line.further) + len(_GAP)
        room = max(_NARROWEST_LABEL, available - margin)
        for pieces in [detail] if length <= room else _wrap(detail, room):
            yield [(line.further.ljust(margin), "dim"), *pieces]


def _wrap(detail: Pieces, room: int) -> Iterator[Pieces]:
    """Break pieces into lines between words; a line has one style, that of the first piece."""
    style = detail[0][1]
    for line in Text("".join(text for text, _ in detail)).wrap(_measuring, room):
        yield [(str(line), style)]


def _fold(text: str, width: int) -> list[str]:
    return [text[start : start + width] for start in range(0, len(text), width)] or [""]


def _segments(pieces: Pieces, console: Console) -> Iterator[Segment]:
    """Return a line for the console, without blanks at its end. Segments cost a tenth of what rich's Text does."""
    kept = list(pieces)
    while kept and not kept[-1][0].rstrip():
        kept.pop()
    for index, (text, style) in enumerate(kept):
        last = index == len(kept) - 1
        yield Segment(text.rstrip() if last else text, console.get_style(style) if style else None)
    yield Segment.line()


_measuring = Console(width=80)
