"""The folder that an export of several files goes into."""

import os
from collections.abc import Iterable
from pathlib import Path

from fxgrow.errors import ExportError


def check_folder(folder: str | os.PathLike[str], names: Iterable[str], *, overwrite: bool) -> list[Path]:
    """Check that files of these names may be written into a folder, and return their paths.

    Raises:
        ExportError: If it is a file, or has one of them already, which may not be replaced.
    """
    paths = [Path(folder) / name for name in names]
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ExportError("it is a file, not a folder", where=str(folder), fix="choose another folder")
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        fix = "choose another folder, or allow it with --force (overwrite=True)"
        raise ExportError("it exists already", where=str(taken[0]), fix=fix)
    return paths


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder if it is missing.

    Raises:
        ExportError: If it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"it cannot be made ({error.strerror or error})"
        raise ExportError(what, where=str(folder), fix="choose another folder") from error
