"""Set a view as a page of HTML: one file, no script, nothing that is fetched."""

from collections.abc import Iterator
from html import escape
from typing import Any

from fxgrow.inspection.arcs import to_svg
from fxgrow.inspection.document import Facts, Grid, Line, Part, Tree, parts
from fxgrow.inspection.graph import GraphView
from fxgrow.inspection.outline import Item
from fxgrow.inspection.wording import HEADINGS, NUMBERS, cells, details, label

_STYLE = """\
:root{color-scheme:light dark;--faint:#5c6570;--line:#d5dae0;--grown:#0a7d4f;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--faint:#9aa4b0;--line:#343a42;--grown:#4cc38a;--warn:#e3b341}}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:70rem;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto}
th{text-align:left;color:var(--faint);font-weight:normal;border-bottom:1px solid var(--line)}
td,th{padding:.1rem .9rem .1rem 0;vertical-align:top;font-variant-numeric:tabular-nums}
.right{text-align:right}.quiet,.faint,small,dt{color:var(--faint)}.warning{color:var(--warn)}
.pseudo-layer td:first-child{color:var(--grown)}.more td{white-space:pre;font-family:ui-monospace,monospace}
p{margin:.1rem 0}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}svg{max-width:none}"""


def to_html(view: Any) -> str:
    """Return a view as a whole page.

    Raises:
        TypeError: If it is no view.
    """
    if isinstance(view, GraphView):
        heading, body = view.name, to_svg(view)
    else:
        shown = list(parts(view))
        heading = next((part.text for part in shown if isinstance(part, Line) and part.style == "title"), "fxgrow")
        body = "\n".join(map(_html, shown))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(heading)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _html(part: Part) -> str:
    if isinstance(part, Line):
        aside = f" <small>{escape(part.aside)}</small>" if part.aside else ""
        tag = "h2" if part.style == "title" else "p"
        return f'<{tag} class="{part.style}">{escape(part.text) or "&nbsp;"}{aside}</{tag}>'
    if isinstance(part, Facts):
        return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in part.pairs)}</dl>"
    if isinstance(part, Tree):
        rows = "\n".join(row for child in part.root.children for row in _tree_rows(child, 0))
        return _table(HEADINGS, NUMBERS, rows)
    return _table(part.headings, part.right, "\n".join(_grid_rows(part)))


def _table(headings: tuple[str, ...], right: tuple[str, ...], rows: str) -> str:
    heads = "".join(f'<th scope="col"{_side(heading, right)}>{escape(heading)}</th>' for heading in headings)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _grid_rows(grid: Grid) -> Iterator[str]:
    for index, row in enumerate(grid.rows):
        inner = "".join(
            f"<td{_side(heading, grid.right)}>{escape(cell)}</td>"
            for heading, cell in zip(grid.headings, row, strict=True)
        )
        yield f'<tr class="{"faint" if index in grid.faint else ""}">{inner}</tr>'


def _tree_rows(item: Item, level: int) -> Iterator[str]:
    pairs = zip(HEADINGS[1:], cells(item), strict=True)
    inner = "".join(f"<td{_side(heading, NUMBERS)}>{escape(cell)}</td>" for heading, cell in pairs)
    name = f'<td style="padding-left:{1.4 * level:.1f}em">{escape(label(item))}</td>'
    yield f'<tr class="{escape(item.kind.replace(" ", "-"))}">{name}{inner}</tr>'
    for line in details(item):
        text = escape("".join(piece for piece, _ in line))
        yield f'<tr class="more"><td></td><td colspan="{len(HEADINGS) - 1}">{text}</td></tr>'
    for child in item.children:
        yield from _tree_rows(child, level + 1)


def _side(heading: str, right: tuple[str, ...]) -> str:
    return ' class="right"' if heading in right else ""
