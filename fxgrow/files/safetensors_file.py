"""A model as safetensors: the weights under their own names for anybody, and in the metadata what `load` needs.

A safetensors file is the length of its header, the header as JSON, and the bytes of the tensors. Its metadata hold our
document (`fxgrow.files.layout`) without the tensors, as JSON under ``fxgrow``. Tied tensors are written once.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from fxgrow.errors import FileError, first_line
from fxgrow.files.layout import FORMAT, TABLE, VERSION, damage, update
from fxgrow.files.schema import check_shown, check_table, table_from_plain
from fxgrow.files.table import Count, Table

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


class Document(msgspec.Struct):
    """Our document (`fxgrow.files.layout`) without the tensors."""

    format: str
    format_version: int
    table: dict[str, Any]
    buffers: list[str]  #: the tensors that are not in the state dict
    aliases: dict[str, str]  #: names that are not written, with the names of those that are the same tensors
    checksums: dict[str, str]


class _Entry(msgspec.Struct):
    """Where a tensor lies in the file."""

    dtype: Literal[tuple(_DTYPES)]  # type: ignore[valid-type]
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]

    @property
    def bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


def read_metadata(path: str | os.PathLike[str]) -> tuple[Table, Document]:
    """Return the table and the rest of our document, after comparing all checksums; torch is not imported.

    Raises:
        FileError: If it is no model of fxgrow, has another version, or is damaged.
    """
    where, whole = str(path), Path(path).stat().st_size
    try:
        with Path(path).open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
            document = _document(header.pop("__metadata__", {}), where)
            check_table(document.table, size)
            entries = msgspec.convert(header, dict[str, _Entry])
            check_shown(sum(entry.bytes for entry in entries.values()), whole)
            found = {name: _checksum(stream, 8 + size, entry) for name, entry in entries.items()}
        found |= {name: found[same] for name, same in document.aliases.items()}
        damaged = damage(document.table, found, document.checksums)
        if damaged is not None:
            raise FileError(damaged, where=where, fix="restore it from a copy")
        unknown = set(document.buffers) - set(found)
        if unknown or len(set(document.buffers)) < len(document.buffers):
            raise ValueError("its buffers are not among its tensors, each once")
        return table_from_plain(document.table), document
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it is no whole file of safetensors ({first_line(error)[:100]})"
        raise FileError(what, where=where, fix="restore it from a copy") from error


def _document(metadata: Mapping[str, str], where: str) -> Document:
    if _KEY not in metadata:
        fix = "load_state_dict it into its model, fxgrow.trace that and fxgrow.save it"
        raise FileError("it holds weights of safetensors, without a model", where=where, fix=fix)
    plain = json.loads(metadata[_KEY])
    if plain["format"] != FORMAT or plain["format_version"] != VERSION:
        what = f"it has format version {plain['format_version']}, and this fxgrow reads version {VERSION}"
        raise FileError(what, where=where, fix="read it with the fxgrow that wrote it")
    return msgspec.convert(plain, Document)


def _checksum(stream: Any, start: int, entry: _Entry) -> str:
    """Return what `fxgrow.files.checksums.checksum_of_tensor` returns for a tensor of the file."""
    stream.seek(start + entry.data_offsets[0])
    hasher = hashlib.sha256(f"torch.{_DTYPES[entry.dtype]} {entry.shape}".encode())
    update(hasher, stream, entry.bytes)
    return hasher.hexdigest()
