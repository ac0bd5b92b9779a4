"""Pictures of `fxgrow.plot` as SVG that follows the page: its colours, its fonts, its width."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fxgrow.plot.style import MARK, SERIES, check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#1b1b1b"
#: Colours of the picture, by what the page's style sheet calls them.
_VARIABLES = {
    _INK: "--ink",
    MARK.lower(): "--mark",
    **{colour.lower(): f"--series-{number}" for number, colour in enumerate(SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "fxgrow",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.0,
    "grid.color": MARK,
}


def svg(draw: Callable[["Axes"], Any], *, name: str, label: str, size: Sequence[float]) -> Markup:
    """Return a picture as an SVG element.

    Args:
        draw: Draws on the axes that it is given.
        name: Of the picture; no other on the page may have it.
        label: What the picture shows, for those who cannot see it.
        size: Width and height in inches.

    Raises:
        FileError: If matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(size[0], size[1]), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _themed(stream.getvalue(), name, label)


def _themed(document: str, name: str, label: str) -> Markup:
    """Return the SVG element of a document: ids that are the page's only ones, colours by variable, no size."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    element = re.sub(r"font: (\d[\d.]*)px [^;\"]*", r"font-size: \1px", element)
    element = re.sub("#[0-9a-f]{6}", lambda colour: _variable(colour.group()), element)
    box = re.search(r'viewBox="[^"]*"', element)
    head = f'<svg {box.group() if box else ""} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="'
    return Markup(head) + label + Markup('">' + re.sub(r"\n\s*", "\n", element[element.index(">") + 1 :]))


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour
