"""Say whether a file is an archive that PyTorch may have written, and whether it is whole; known without torch."""

import os
import zipfile
import zlib
from pathlib import Path

from fxgrow.errors import FileError, did_you_mean, first_line

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
#: torch.serialization.MAGIC_NUMBER as a pickle spells it, at the start of the files of torch < 1.6
_OLD_MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
#: bytes of the pickle; a table of the most nodes that one may have takes a quarter of it
MAX_PICKLE = 200_000_000
RISK = "which can run any code when it is read"
REBUILD = "build the model, fxgrow.trace it and fxgrow.save it"


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
            what = f"it is a pickle that PyTorch did not write, {RISK}"
            raise FileError(what, where=str(path), fix=REBUILD)
        raise FileError("it is not a file that PyTorch wrote", where=str(path), fix=REBUILD)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, str(path))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        fix = "restore it from a copy"
        raise FileError(f"the file is damaged: {first_line(error)}", where=str(path), fix=fix) from error
    return True


def pickle_size(path: str | os.PathLike[str]) -> int:
    """Return how many bytes of a file that passed `check_archive` are its pickle, and no numbers of tensors."""
    if not zipfile.is_zipfile(path):
        return Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        return next(entry.file_size for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))


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
    """Check that the archive is torch's, and read its small entries against their checksums before torch does.

    torch compresses nothing, so that no entry can be larger than the file, nor all of them together.
    """
    entries = archive.infolist()
    plain = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries)
    if not plain or sum(entry.file_size for entry in entries) > Path(where).stat().st_size:
        what = "it is a zip archive with entries that are compressed, encrypted or overlap, not one that PyTorch wrote"
        raise FileError(what, where=where, fix=REBUILD)
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names or "archive_format" in names:
        kind = "TorchScript" if "constants.pkl" in names else "torch.export"
        raise FileError(f"it is a {kind} archive, not a model of fxgrow", where=where, fix=REBUILD)
    if "data.pkl" not in names:
        raise FileError("it is a zip archive, but not one that PyTorch wrote", where=where, fix=REBUILD)
    for name, entry in names.items():
        if not name.startswith("data/"):  # tensors have checksums of their own, by name
            content = archive.read(entry)
            if name == "data.pkl":
                _check_pickle(content, where)


def _check_pickle(content: bytes, where: str) -> None:
    """Refuse a pickle that would take far more memory than its bytes: an empty list takes 56, for one.

    What stands in texts and numbers counts too. In files of real models one byte of 40 is such a one.
    """
    containers = sum(content.count(opcode) for opcode in (b"]", b"}", b")"))
    if len(content) > MAX_PICKLE or 4 * containers > len(content) + 1000:
        what = f"its pickle of {len(content):,} bytes is larger than {MAX_PICKLE:,}, or nothing but empty lists"
        raise FileError(what, where=where, fix=REBUILD)
