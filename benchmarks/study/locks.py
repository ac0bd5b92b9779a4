"""What one process does, no other does at the same time: locks that end with the process that holds them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: one process at a time there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path) -> Iterator[str | None]:
    """Hold a lock, a file with the id of its process; yield the id of another process that has it, or None.

    The file goes with the lock. One that a dead process left behind is taken over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    other = _holder(file)
    try:
        if other is None:
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield other
    finally:
        if other is None:
            path.unlink(missing_ok=True)
        os.close(file)


def exclusive(file: int, wait: bool = True) -> bool:
    """Lock an open file until it is closed; tell whether that is done."""
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
    return True


def _holder(file: int) -> str | None:
    """Lock a file; return who has it, or None if that is us. A file that is gone was the lock of one who has ended."""
    if exclusive(file, wait=False) and os.fstat(file).st_nlink:
        return None
    return os.pread(file, 20, 0).decode() or "?"
