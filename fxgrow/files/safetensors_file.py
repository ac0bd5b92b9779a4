"""A model as safetensors: the weights under their own names for anybody, and in the metadata what `load` needs.

A safetensors file is the length of its header, the header as JSON, and the bytes of the tensors. Its metadata hold our
document (`fxgrow.files.layout`) without the tensors, as JSON under ``fxgrow``. Tied tensors are written once.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxgrow.errors import FileError, first_line
from fxgrow.files.layout import FORMAT, TABLE, VERSION, checksum_of_plain, update
from fxgrow.files.schema import check_plain, check_shown, table_from_plain
from fxgrow.files.table import Table

_KEY = "fxgrow"
_LONGEST_HEADER = 100_000_000  # as safetensors itself has it
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Say whether a file begins as safetensors do: a length, and then JSON."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(9)
    except OSError:
        return False
    return len(start) == 9 and start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def metadata_of(document: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that hold a document of `fxgrow.files.layout` without its tensors.

    Args:
        document: The document.
        aliases: The tensors that are not written, with the names of those that are the same.
    """
    kept = {name: document[name] for name in ("format", "format_version", TABLE, "checksums")}
    ours = {**kept, "buffers": list(document["buffers"]), "aliases": dict(aliases)}
    return {"format": "pt", _KEY: json.dumps(ours)}


def read_metadata(path: str | os.PathLike[str]) -> tuple[Table, dict[str, Any]]:
    """Return the table and the rest of our document, after comparing all checksums; torch is not imported.

    Raises:
        FileError: If it is no model of fxgrow, has another version, or is damaged.
    """
    where, whole = str(path), Path(path).stat().st_size
    try:
        with Path(path).open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
            document = json.loads(header.get("__metadata__", {}).get(_KEY, "null"))
            if document is None:
                fix = "load_state_dict it into its model, fxgrow.trace that and fxgrow.save it"
                raise FileError("it holds weights of safetensors, without a model", where=where, fix=fix)
            _check_version(document, where)
            check_plain(document[TABLE], size)
            tensors = {name: entry for name, entry in header.items() if name[:2] != "__"}
            check_shown(sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors.values()), whole)
            found = {name: _checksum(stream, 8 + size, entry) for name, entry in tensors.items()}
        found |= {name: found[same] for name, same in document["aliases"].items()}
        found[TABLE] = checksum_of_plain(document[TABLE])
        if found != document["checksums"]:
            wrong = sorted(name for name, sum_ in document["checksums"].items() if found.get(name) != sum_)
            what = f"the file is damaged: {wrong[0] if wrong else 'a tensor'} does not fit its checksum"
            raise FileError(what, where=where, fix="restore it from a copy")
        return table_from_plain(document[TABLE]), document
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it is no whole file of safetensors ({first_line(error)[:100]})"
        raise FileError(what, where=where, fix="restore it from a copy") from error


def _check_version(document: Mapping[str, Any], where: str) -> None:
    if document["format"] != FORMAT or document["format_version"] != VERSION:
        what = f"it has format version {document['format_version']}, and this fxgrow reads version {VERSION}"
        raise FileError(what, where=where, fix="read it with the fxgrow that wrote it")


def _checksum(stream: Any, start: int, entry: Mapping[str, Any]) -> str:
    """Return what `fxgrow.files.checksums.checksum_of_tensor` returns for a tensor of the file."""
    first, last = entry["data_offsets"]
    stream.seek(start + first)
    hasher = hashlib.sha256(f"torch.{_DTYPES[entry['dtype']]} {tuple(entry['shape'])}".encode())
    update(hasher, stream, last - first)
    return hasher.hexdigest()
