"""Say what a file is, when it is not a model of fxgrow. Nothing is unpickled here."""

import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import FileError, did_you_mean, first_line

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
#: torch.serialization.MAGIC_NUMBER as a pickle spells it, at the start of the files of torch < 1.6
_OLD_MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_RISK = "which can run any code when it is read"
_REBUILD = "build the model, fxgrow.trace it and fxgrow.save it"


class PickledFileError(FileError):
    """A file holds a pickled object, and reading it would run whatever code it asks for."""


def check_archive(path: str | os.PathLike[str]) -> bool:
    """Check that there is a file at `path` that torch may have written, and that its archive is whole.

    Returns:
        True for a zip archive, which is what torch writes; False for a bare pickle of an old torch.

    Raises:
        FileError: If it is missing, empty, a directory, truncated, damaged, or something else altogether.
    """
    start = _first_bytes(Path(path), str(path))
    if not zipfile.is_zipfile(path):
        if start[:4] == _ZIP[: len(start)]:
            raise FileError("the file is truncated", where=str(path), fix="copy or write it again")
        if start.startswith(_PICKLE) and _OLD_MAGIC in start:
            return False
        if start.startswith(_PICKLE):
            what = f"it is a pickle that PyTorch did not write, {_RISK}"
            raise FileError(what, where=str(path), fix=_REBUILD)
        raise FileError("it is not a file that PyTorch wrote", where=str(path), fix=_REBUILD)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, str(path))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        fix = "restore it from a copy"
        raise FileError(f"the file is damaged: {first_line(error)}", where=str(path), fix=fix) from error
    return True


def _first_bytes(path: Path, where: str) -> bytes:
    if path.is_dir():
        raise FileError("it is a directory", where=where, fix="name the file in it")
    if not path.exists():
        raise FileError("there is no such file", where=where, fix=_near(path))
    try:
        with path.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"it cannot be read ({reason})", where=where, fix="check its permissions") from error
    if not start:
        raise FileError("the file is empty", where=where, fix="copy or write it again")
    return start


def _near(path: Path) -> str:
    """Suggest a file in the same folder whose name is close."""
    names = [other.name for other in path.parent.glob("*.pt")] if path.parent.is_dir() else []
    return f"{did_you_mean(path.name, names)}check the name"


def _check_entries(archive: zipfile.ZipFile, where: str) -> None:
    """Check that the archive is torch's, and read its small entries against their checksums before torch does."""
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names or "archive_format" in names:
        kind = "TorchScript" if "constants.pkl" in names else "torch.export"
        raise FileError(f"it is a {kind} archive, not a model of fxgrow", where=where, fix=_REBUILD)
    if "data.pkl" not in names:
        raise FileError("it is a zip archive, but not one that PyTorch wrote", where=where, fix=_REBUILD)
    for name, entry in names.items():
        if not name.startswith("data/"):  # tensors have checksums of their own, by name
            archive.read(entry)


def describe_pickle(path: str | os.PathLike[str], error: Exception, where: str) -> FileError:
    """Return the error for a file that `torch.load(weights_only=True)` refused, from the names that it refers to."""
    names = _foreign_names(path, str(error))
    if not names:
        first = first_line(error)[:100]
        return FileError(f"PyTorch cannot read it ({first})", where=where, fix="restore it from a copy")
    kind = "a pickled Python object"
    if any(name.startswith("torch.fx.graph_module.reduce") for name in names):
        kind = "a pickled GraphModule"
    elif any(name.startswith(("torch.nn.modules.", "timm.", "torchvision.")) for name in names):
        kind = "a pickled nn.Module"
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    fix = f"{_REBUILD}, or allow it with --unsafe-pickle (allow_pickle=True) if you trust whoever made it"
    return PickledFileError(f"it is {kind} ({shown}), {_RISK}", where=where, fix=fix)


def _foreign_names(path: str | os.PathLike[str], message: str) -> list[str]:
    """Return the importable names that a pickle refers to and that plain data does not need."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive: torch lists no names there, but its refusal holds the first
        return re.findall(r"GLOBAL (\S+)", message)[:1]


def describe_foreign(document: Any, where: str) -> FileError:
    """Return the error for a file that holds plain data which is not a model of fxgrow."""
    if isinstance(document, Mapping) and document and all(isinstance(v, Tensor) for v in document.values()):
        fix = "build the model, load_state_dict, fxgrow.trace it and fxgrow.save it"
        return FileError(
            f"it is a plain state_dict of {len(document)} tensors, without its model", where=where, fix=fix
        )
    if isinstance(document, Mapping):
        keys = ", ".join(str(key) for key in list(document)[:4]) + (", …" if len(document) > 4 else "")
        what = f"a dict with {keys}" if document else "an empty dict"
    else:
        what = f"a {type(document).__qualname__}"
    return FileError(f"it is a PyTorch file, but not a model of fxgrow: it holds {what}", where=where, fix=_REBUILD)
