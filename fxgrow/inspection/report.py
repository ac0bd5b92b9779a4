"""The whole picture that `fxgrow inspect` shows."""

from dataclasses import dataclass

import torch.fx as fx
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from fxgrow.files.table import Table, describe
from fxgrow.inspection import summary
from fxgrow.inspection.drawing import ModelTree
from fxgrow.inspection.outline import condense, outline
from fxgrow.inspection.quantities import glyphs_of


@dataclass(frozen=True)
class Summary:
    """The end of a report: sizes, what its scores were measured on, and how it grew."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        table, glyphs = self.table, glyphs_of(options)
        yield summary.size_line(table)
        yield from filter(None, [summary.work_line(table, glyphs)])
        yield summary.site_line(table)
        yield from summary.score_lines(table)
        yield from summary.notes(table)
        events = summary.history(table, glyphs)
        if events is not None:
            yield Text()
            yield events


@dataclass(frozen=True)
class Report:
    """A model as a rich renderable: its name, its tree, what the marks mean, its sizes and how it grew."""

    table: Table
    everything: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, an empty line between them."""
        table, glyphs = self.table, glyphs_of(options)
        root = outline(table, everything=self.everything)
        if not self.everything:
            root = condense(root)
        yield summary.title(table)
        yield Text()
        yield ModelTree(root)
        legend = list(summary.legend(table, glyphs, alike=any(item.alike > 1 for item in root.walk())))
        yield from ([Text(), *legend] if legend else [])
        yield Text()
        yield Summary(table)


def render(model: Table | fx.GraphModule, *, everything: bool = False) -> Report:
    """Return the picture of a model for `rich.print`; nothing is executed.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        everything: Draw every block and every function, in place of drawing blocks that are alike once.

    Example:
        >>> rich.print(fxgrow.inspection.render(grown))  # doctest: +SKIP
    """
    return Report(_table(model), everything)


def summarize(model: Table | fx.GraphModule) -> Summary:
    """Return the end of `render` alone: sizes, scores and growth history."""
    return Summary(_table(model))


def _table(model: Table | fx.GraphModule) -> Table:
    return model if isinstance(model, Table) else describe(model)
