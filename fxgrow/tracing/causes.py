"""Why a model cannot be traced, and where: the line of its own code, and what the operation was."""

import linecache
import os
import sys
import traceback
from pathlib import Path

from fxgrow.errors import first_line
from fxgrow.tracing.values import UnknownValueError

_INSTALLED = sorted((os.path.abspath(path) + os.sep for path in sys.path if path), key=len, reverse=True)
_OURS = tuple(str(Path(sys.modules[name].__path__[0])) + os.sep for name in ("fxgrow", "torch"))


def cause_of(error: BaseException) -> str:
    """Return what went wrong in a trace and the line of the model's code that asked for it.

    Example:
        ``its control flow depends on the values of lengths (model.py:9, n = int(torch.max(lengths)))``
    """
    place, lines = place_of(error), str(error).strip().splitlines()
    ours = isinstance(error, UnknownValueError)  # what other exceptions say may mean nothing without their kind
    what = lines[0].rstrip(".") if ours else f"{type(error).__name__} {first_line(error) if lines else ''}".strip()
    return f"{what} ({place})" if place else what


def place_of(error: BaseException) -> str:
    """Return file, line and source of the innermost frame that is neither of torch nor of fxgrow; empty if none is."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    if not frames or frames[-1].lineno is None:
        return ""
    source = " ".join(linecache.getline(frames[-1].filename, frames[-1].lineno).split())
    return f"{_short(frames[-1].filename)}:{frames[-1].lineno}" + (f", {source}" if source else "")


def _short(filename: str) -> str:
    """Return a file's path as an import would spell it, from the folder on the path in which it lies."""
    path = os.path.abspath(filename)
    home = next((home for home in _INSTALLED if path.startswith(home)), os.path.dirname(path) + os.sep)
    return path.removeprefix(home)
