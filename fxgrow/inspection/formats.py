"""Set a view as text, as a page of HTML, or as JSON."""

import io
import json
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichGrid
from rich.text import Text

from fxgrow.inspection.document import Facts, Grid, Line, Part, Tree, parts
from fxgrow.inspection.drawing import ModelTree
from fxgrow.inspection.quantities import to_ascii
from fxgrow.inspection.schema import SCHEMA_VERSION, name_of

_STYLES = {"": "", "title": "bold", "quiet": "dim", "warning": "yellow"}


@dataclass(frozen=True)
class Page:
    """A view as a rich renderable, in the width and the characters that the terminal has."""

    parts: tuple[Part, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts."""
        for part in self.parts:
            yield _renderable(part, options)


def to_text(view: Any) -> Page:
    """Return a view for ``rich.print``.

    Raises:
        TypeError: If it is no view.
    """
    return Page(tuple(parts(view)))


def to_plain_text(view: Any, *, width: int = 120) -> str:
    """Return a view as lines of plain text.

    Raises:
        TypeError: If it is no view.
    """
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, force_jupyter=False).print(to_text(view))
    return stream.getvalue()


def to_json(view: Any) -> str:
    """Return a view as JSON, as docs/inspection_schema.json describes it.

    Raises:
        TypeError: If it is no view.
    """
    document = {"version": SCHEMA_VERSION, "view": name_of(view), "data": msgspec.to_builtins(view)}
    return json.dumps(document, indent=1, ensure_ascii=False)


def _renderable(part: Part, options: ConsoleOptions) -> Any:
    spell = to_ascii if options.ascii_only else str
    if isinstance(part, Tree):
        return ModelTree(part.root)
    if isinstance(part, Line):
        line = Text(spell(part.text), style=_STYLES[part.style])
        return line.append(f"  {spell(part.aside)}", style="not bold dim") if part.aside else line
    if isinstance(part, Facts):
        grid = RichGrid.grid(padding=(0, 2, 0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in part.pairs:
            grid.add_row(name, Text(spell(value)))
        return grid
    return _grid(part, [[spell(cell) for cell in row] for row in part.rows])


def _grid(part: Grid, rows: list[list[str]]) -> RichGrid:
    grid = RichGrid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for heading in part.headings:
        right = heading in part.right
        grid.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for index, row in enumerate(rows):
        grid.add_row(*map(Text, row), style="dim" if index in part.faint else None)
    return grid
