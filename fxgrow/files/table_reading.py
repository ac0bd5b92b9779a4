"""Read the table of a file: without torch where nothing is wrong with it, which takes a tenth of the time."""

import os
import pickle
import struct
import zipfile
from typing import Any

from fxgrow.files.archive import check_archive
from fxgrow.files.layout import FORMAT, TABLE, VERSION, checksums_of
from fxgrow.files.safetensors_file import is_safetensors, read_metadata
from fxgrow.files.schema import check_document, check_shown, table_from_plain
from fxgrow.files.table import Table
from fxgrow.files.torchless import StoredTensor, read_document

#: what a file that is not as it should be may raise: `fxgrow.files.reading` then says what is wrong
_AMISS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, RecursionError, NotImplementedError),
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, struct.error),
)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Return what a file says of its model, as plain data: no model code is imported and nothing is executed.

    The weights are read too, but only to check that they are intact. torch is imported only where the file is not an
    intact one of this version.

    Raises:
        FileError: If there is no such file, if it is not a model of fxgrow, or if it is damaged.

    Example:
        >>> [row.target for row in fxgrow.files.read_table("model.pt").nodes if row.site]  # doctest: +SKIP
    """
    if is_safetensors(path):
        return read_metadata(path)[0]
    check_archive(path)
    try:
        return _read(path)
    except _AMISS:
        from fxgrow.files.reading import read

        return read(path).table


def _read(path: str | os.PathLike[str]) -> Table:
    """Return the table of an intact file; raise one of `_AMISS` for any other."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        document = read_document(archive, root)
        if document["format"] != FORMAT or type(document["format_version"]) is not int:
            raise ValueError("it is no file of fxgrow")
        if document["format_version"] != VERSION:
            raise ValueError("it has another version")
        check_document(document, archive.getinfo(f"{root}/data.pkl").file_size)
        tensors = {**document["buffers"], **document["state_dict"]}
        check_shown(sum(tensor.bytes for tensor in set(tensors.values())), os.path.getsize(path))
        if document["checksums"] != _checksums(document[TABLE], tensors, archive, root):
            raise ValueError("it does not fit its checksums")
    return table_from_plain(document[TABLE])


def _checksums(table: Any, tensors: dict[str, StoredTensor], archive: zipfile.ZipFile, root: str) -> dict[str, str]:
    found = {tensor: tensor.checksum(archive, root) for tensor in set(tensors.values())}
    return checksums_of(table, {name: found[tensor] for name, tensor in tensors.items()})
