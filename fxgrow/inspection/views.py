"""Views of a model: plain data, which `fxgrow.inspection.formats` sets as text, HTML or JSON. Nothing is executed."""

from collections.abc import Iterator
from dataclasses import dataclass

from fxgrow.files.table import NodeRow
from fxgrow.inspection.document import Line, Part, Tree, parts
from fxgrow.inspection.model import Model, table_of
from fxgrow.inspection.outline import Item, condense, outline
from fxgrow.inspection.selection import EVERYTHING, Selection, narrow
from fxgrow.inspection.sites import SiteEntry, SiteList, site_entries
from fxgrow.inspection.summary import Summary, summarize_table, title


@dataclass(frozen=True)
class TreeView:
    """A model as the tree of its modules."""

    summary: Summary
    tree: Item


@dataclass(frozen=True)
class ModelView:
    """All that a table says of a model."""

    summary: Summary
    sites: tuple[SiteEntry, ...]
    nodes: tuple[NodeRow, ...]
    edits: tuple[str, ...]  #: the edit log: passes as text
    frozen: tuple[str, ...]  #: parameters that do not require a gradient


def summarize(model: Model) -> Summary:
    """Return the sizes of a model, what its scores were measured on, and how it grew."""
    return summarize_table(table_of(model))


def view_tree(model: Model, selection: Selection = EVERYTHING, *, everything: bool = False) -> TreeView:
    """Return a model as the tree of its modules.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        selection: Which part of it.
        everything: Every block and every function, in place of blocks that are alike once.

    Raises:
        FxgrowError: If nothing is selected.

    Example:
        >>> rich.print(to_text(view_tree(grown)))  # doctest: +SKIP
    """
    table = table_of(model)
    root = outline(narrow(table, selection), everything=everything)
    return TreeView(summarize_table(table), root if everything else condense(root))


def view_model(model: Model, selection: Selection = EVERYTHING) -> ModelView:
    """Return all that is known of a model, or of the part of it that is selected.

    Raises:
        FxgrowError: If nothing is selected.
    """
    table = table_of(model)
    narrowed = narrow(table, selection)
    return ModelView(
        summarize_table(table), tuple(site_entries(narrowed)), narrowed.nodes, table.record.edits, table.frozen
    )


@parts.register
def _(view: TreeView) -> Iterator[Part]:
    yield title(view.summary)
    yield Line()
    yield Tree(view.tree)
    legend = list(_legend(view))
    yield from ([Line(), *legend] if legend else [])
    yield Line()
    yield from parts(view.summary)


@parts.register
def _(view: ModelView) -> Iterator[Part]:
    yield from parts(SiteList(view.sites))
    yield Line()
    yield from parts(view.summary)


def _legend(view: TreeView) -> Iterator[Line]:
    """Yield what the marks in the tree mean, of those that are in it."""
    items = list(view.tree.walk())
    if any(item.scores for item in items) and view.summary.scores is not None:
        sign = "negative" if view.summary.scores.sign < 0 else "positive"
        yield Line(f"bar: share of neurons whose held-out score is {sign} by 2 standard errors", "quiet")
        if any(item.alike > 1 for item in items):
            yield Line("bars side by side: the same site in each of the blocks that are alike", "quiet")
    if any(item.kind == "pseudo-layer" for item in items):
        yield Line("⊕ pseudo-layer, → residual edge to so many rows of the site above it", "quiet")
