"""Draw a graph as SVG: one line for each node in the order in which it runs, and an arc for what skips lines.

A network is mostly a chain. Set one below the other, its nodes need no layout that a library would have to find: the
chain is a straight line, and residual edges are arcs at its side. Arcs that overlap lie in lanes of their own, the
shortest innermost (interval colouring, as registers are allotted to values).
"""

import heapq
from html import escape

from fxgrow.inspection.graph import GraphNode, GraphView, words

_ROW, _LANE, _LEFT = 24, 14, 24
_STYLE = """\
svg{font:12px ui-monospace,Menlo,Consolas,monospace;color:#1b1f24;background:#fff}
text{fill:currentColor}.chain,.arc{stroke:#6b7480;fill:none;stroke-width:1.3}.dot{fill:#6b7480}
.grown .dot,.deeper .dot{fill:#0a7d4f}.grown text{fill:#0a7d4f}.deeper text{font-weight:bold}
@media(prefers-color-scheme:dark){svg{color:#e4e7eb;background:#15181c}.grown text{fill:#4cc38a}}"""


def to_svg(view: GraphView) -> str:
    """Return the drawing of a graph; it needs nothing but a browser, and no program made it but this."""
    rows = {node.name: index for index, node in enumerate(view.nodes)}
    arcs = sorted((rows[source], rows[reader]) for source, reader in view.edges if rows[reader] - rows[source] > 1)
    lanes, chain = _lanes(arcs), [rows[reader] for source, reader in view.edges if rows[reader] - rows[source] == 1]
    left = _LEFT + _LANE * (max(lanes, default=-1) + 1)
    width = left + 24 + 8 * max((len(words(node)) for node in view.nodes), default=0)
    height = _ROW * (len(view.nodes) + 1)
    body = [_chain(row, left) for row in dict.fromkeys(chain)]
    body += [_arc(*arc, left, left - _LANE * (lane + 1)) for arc, lane in zip(arcs, lanes, strict=True)]
    body += [_node(index, node, left) for index, node in enumerate(view.nodes)]
    title = f"<title>{escape(view.name)}</title><style>{_STYLE}</style>"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>{title}{"".join(body)}</svg>\n'


def _lanes(arcs: list[tuple[int, int]]) -> list[int]:
    """Return a lane for each arc, sorted by their starts, such that no two arcs of a lane overlap."""
    free: list[int] = []
    taken: list[tuple[int, int]] = []  # (end, lane)
    lanes = []
    for start, end in arcs:
        while taken and taken[0][0] <= start:
            heapq.heappush(free, heapq.heappop(taken)[1])
        lane = heapq.heappop(free) if free else len(taken)
        heapq.heappush(taken, (end, lane))
        lanes.append(lane)
    return lanes


def _chain(row: int, left: int) -> str:
    return f'<path class="chain" d="M{left} {_y(row - 1)}V{_y(row)}"/>'


def _arc(start: int, end: int, left: int, lane: int) -> str:
    return f'<path class="arc" d="M{left} {_y(start)}H{lane + 6}Q{lane} {_y(start)} {lane} {_y(start) + 6}' + (
        f'V{_y(end) - 6}Q{lane} {_y(end)} {lane + 6} {_y(end)}H{left}"/>'
    )


def _node(row: int, node: GraphNode, left: int) -> str:
    kind = "grown" if node.grown else "deeper" if node.depth else ""
    dot = f'<circle class="dot" cx="{left}" cy="{_y(row)}" r="{5 if node.site else 3}"/>'
    text = f'<text x="{left + 14}" y="{_y(row) + 4}">{escape(words(node))}</text>'
    return f'<g class="{kind}">{dot}{text}</g>'


def _y(row: int) -> int:
    return _ROW * (row + 1)
