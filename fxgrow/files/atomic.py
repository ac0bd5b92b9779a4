"""Files that appear whole or not at all, also when the process is killed while it writes."""

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fxgrow.errors import FileError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check that a file may be written at `path`, before the work whose result it shall hold; return where it goes.

    Raises:
        FileError: If it exists already and may not be replaced, or if its folder is missing.
    """
    target = Path(os.path.realpath(path))  # a link is followed, or the rename would replace the link
    if target.is_dir():
        raise FileError("it is a directory", where=str(path), fix="name a file in it")
    if target.exists() and not overwrite:
        fix = "choose another name, or allow it with --force (overwrite=True)"
        raise FileError("it exists already", where=str(path), fix=fix)
    if not target.parent.is_dir():
        raise FileError("its folder does not exist", where=str(path), fix=f"mkdir -p {target.parent}")
    return target


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing that takes the place of `target` when the block ends well, and vanishes otherwise.

    Where the system can (Linux's O_TMPFILE), the file has no name until it is whole, so that a killed process leaves
    nothing behind. Elsewhere it has a temporary name in the same folder.

    Args:
        target: The file, in a folder that exists. One that is there already survives any failure.

    Raises:
        FileError: If it cannot be written; the message says why.
    """
    name = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    handled = sys.exception()
    try:
        with _nameless(target.parent) or open(name, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if not name.exists():
                _give_name(stream, name)
        os.replace(name, target)
        _sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        cause = _root(error, handled)
        if not isinstance(cause, OSError):
            raise cause from None
        raise FileError(_reason(cause), where=str(target), fix=_way_out(cause)) from error
    finally:
        name.unlink(missing_ok=True)


def readable_path(stream: IO[bytes]) -> str:
    """Return a path at which what was written to a file of `whole_or_nothing` can be read before it has a name."""
    stream.flush()
    return stream.name if isinstance(stream.name, str) else f"/proc/self/fd/{stream.fileno()}"


def _nameless(folder: Path) -> IO[bytes] | None:
    """Open a file that has no name yet; None where the system or the file system has no such thing."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except OSError:
        return None


def _give_name(stream: IO[bytes], name: Path) -> None:
    """Link a file without a name into its folder, as open(2) describes it."""
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)  # Python follows the link only for a path beside a descriptor
    try:
        os.link(str(stream.fileno()), name, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def _root(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return what really went wrong: torch's writer hides a full disk, and Ctrl-C, behind a RuntimeError.

    Args:
        error: What came out.
        handled: The exception that the caller was already handling, at which the chain ends.
    """
    causes = [error]
    while causes[-1].__context__ not in (None, handled):
        causes.append(causes[-1].__context__)
    return next((cause for cause in causes if isinstance(cause, OSError | KeyboardInterrupt)), error)


def _reason(error: OSError) -> str:
    if error.errno in _FULL:
        return "the disk is full, nothing was written"
    return f"it cannot be written ({error.strerror or error})"


def _way_out(error: OSError) -> str:
    return "make room, or name a file on another disk" if error.errno in _FULL else "name a file that you may write"


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
