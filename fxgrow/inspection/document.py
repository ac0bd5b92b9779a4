"""What a view shows, as a few kinds of parts that every format can set: text, HTML, or whatever comes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal

from fxgrow.inspection.outline import Item

Style = Literal["", "title", "quiet", "warning"]


@dataclass(frozen=True)
class Line:
    """One line of prose; an empty one sets what follows apart."""

    text: str = ""
    style: Style = ""
    aside: str = ""  #: what follows the text, set back


@dataclass(frozen=True)
class Grid:
    """Cells below headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()  #: headings of the columns that are set to the right
    faint: tuple[int, ...] = ()  #: rows that are set back


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tree:
    """The tree of modules below an item."""

    root: Item


Part = Line | Grid | Facts | Tree


@singledispatch
def parts(view: Any) -> Iterable[Part]:
    """Return what a view shows. The module of each kind of view registers its own."""
    raise TypeError(f"{type(view).__qualname__} is no view")
