"""What all pictures share: colours that the colour-blind can tell apart, and axes to draw on."""

from typing import TYPE_CHECKING, TypeAlias, Union

from fxgrow.errors import FileError
from fxgrow.files import Table
from fxgrow.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

#: Okabe and Ito's colours in an order in which neighbours differ in lightness too (jfly.uni-koeln.de/color).
SERIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
#: Beside the colour: print and the colour-blind have more than one sign.
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
NOT_GROWN, MARK = "#E6E6E6", "#767676"

#: What pictures can be made of.
Source: TypeAlias = Union["nn.Module", Table, Results]


def table_of(source: Source) -> Table:
    """Return the table of a model, of a run's model, or the table itself."""
    if isinstance(source, Results):
        return source.table
    if isinstance(source, Table):
        return source
    from fxgrow.files import describe  # which imports torch; a table and a run are drawn without
    from fxgrow.primitives.unwrapping import unwrap

    return describe(unwrap(source))


def new_axes(axes: "Axes | None", *, width: float, height: float) -> "Axes":
    """Return the axes given, or new ones of pyplot; sizes in inches.

    Raises:
        FileError: If matplotlib is not installed.
    """
    if axes is not None:
        return axes
    check_matplotlib()
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def check_matplotlib() -> None:
    """Refuse to draw without matplotlib.

    Raises:
        FileError: If it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FileError("they need matplotlib", where="pictures", fix="pip install 'fxgrow[report]'") from error
