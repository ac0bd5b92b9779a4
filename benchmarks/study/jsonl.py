"""Files of JSON lines: rows are on the disk all at once, and a line that was not written to its end does no harm."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study.locks import exclusive

Row = dict[str, Any]


class BrokenLineError(ValueError):
    """A line in the middle of a file is no JSON, so that somebody has to look at it."""


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none where there is no file; a last line that was not written to its end is no row.

    Raises:
        BrokenLineError: a line that was written to its end is no JSON.
    """
    rows = []
    for number, line in enumerate(_whole(path.read_bytes()).splitlines() if path.exists() else (), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise BrokenLineError(f"{path}, line {number}: this is no JSON: {line[:60]!r}") from None
    return rows


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append rows by one write, in place of a last line that was not written to its end.

    Other processes may append to the same file.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        exclusive(file)
        content = path.read_bytes()
        whole = _whole(content)
        text = whole[len(content) :] + text
        end = min(len(whole), len(content))
        os.ftruncate(file, end)
        if os.write(file, text) < len(text):
            os.ftruncate(file, end)
            raise OSError(f"{path}: the disk is full, and nothing was recorded")
        os.fsync(file)
    finally:
        os.close(file)


def _whole(content: bytes) -> bytes:
    """Return what was written to its end; a last row that lacks nothing but the end of its line gets that."""
    end = content.rfind(b"\n") + 1
    try:
        json.loads(content[end:])
    except ValueError:
        return content[:end]
    return content + b"\n"
