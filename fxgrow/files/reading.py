"""Read a file of fxgrow: whole, checked, and without running anything that it holds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import FileError, first_line
from fxgrow.files.archive import check_archive, pickle_size
from fxgrow.files.checksums import checksum_of_tensor
from fxgrow.files.diagnosis import describe_foreign, describe_pickle
from fxgrow.files.layout import FORMAT, TABLE, VERSION, damage
from fxgrow.files.safetensors_file import is_safetensors, read_metadata
from fxgrow.files.schema import check_document, check_shown, table_from_plain
from fxgrow.files.table import Table


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds. The tensors are mapped from the file and not to be written to."""

    table: Table
    state_dict: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]  #: the buffers that are not in the state dict

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors by name."""
        return {**self.buffers, **self.state_dict}


def read(path: str | os.PathLike[str]) -> Contents:
    """Return the contents of a file, after checking every byte that matters.

    Raises:
        FileError: If there is no such file, if it is not a model of fxgrow, or if it is damaged.
    """
    where = str(path)
    if is_safetensors(path):
        return _read_safetensors(path)
    document = load_plain(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise describe_foreign(document, where)
    version = document.get("format_version")
    if type(version) is not int or version != VERSION:
        what = f"it has format version {version}, and this fxgrow reads version {VERSION}"
        older = type(version) is int and version < VERSION
        fix = "read it with the fxgrow that wrote it" if older else "update with `pip install --upgrade fxgrow`"
        raise FileError(what, where=where, fix=fix)
    try:
        check_document(document, pickle_size(path))
        _check_tensors(document, os.path.getsize(path))
        _check(document, where)
        return Contents(table_from_plain(document[TABLE]), document["state_dict"], document["buffers"])
    except ValueError as error:
        what = f"it is not laid out as format version {version} ({first_line(error)[:200]})"
        raise FileError(what, where=where, fix="write it again with fxgrow.save") from error


def _read_safetensors(path: str | os.PathLike[str]) -> Contents:
    table, document = read_metadata(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        what, fix = "it needs safetensors, which is not installed", "pip install 'fxgrow[export]'"
        raise FileError(what, where=str(path), fix=fix) from error
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        what = f"safetensors does not read it ({first_line(error)[:100]})"
        raise FileError(what, where=str(path), fix="restore it from a copy") from error
    tensors |= {name: tensors[same] for name, same in document.aliases.items()}
    buffers = {name: tensors.pop(name) for name in document.buffers}
    return Contents(table, tensors, buffers)


def load_plain(path: str | os.PathLike[str]) -> Any:
    """Return what `torch.load(weights_only=True)` makes of a file, tensors mapped into memory.

    Raises:
        FileError: If there is no such file, if it is no file of torch's or holds more than plain data, or if its
            archive is damaged.
    """
    where = str(path)
    zipped = check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, AttributeError, … for bad bytes
        raise describe_pickle(path, error, where) from error


def _check_tensors(document: Mapping[str, Any], size: int) -> None:
    for name, tensor in [*document["state_dict"].items(), *document["buffers"].items()]:
        _check_tensor(name, tensor)
    distinct = {
        _identity(tensor): tensor.nbytes for part in ("state_dict", "buffers") for tensor in document[part].values()
    }
    check_shown(sum(distinct.values()), size)


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape)


def _check_tensor(name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"its state holds {str(name)[:60]!r}, a {type(tensor).__qualname__}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"the tensor {name[:60]!r} is not a plain one on the CPU")
    if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
        raise ValueError(f"the tensor {name[:60]!r} of {tensor.numel():,} numbers does not fill its bytes")


def _check(document: Mapping[str, Any], where: str) -> None:
    """Compare the table and every tensor with the checksums."""
    tensors = {**document["buffers"], **document["state_dict"]}
    distinct = {_identity(tensor): tensor for tensor in tensors.values()}
    sums = {identity: checksum_of_tensor(tensor) for identity, tensor in distinct.items()}
    found = {name: sums[_identity(tensor)] for name, tensor in tensors.items()}
    damaged = damage(document[TABLE], found, document["checksums"])
    if damaged is not None:
        raise FileError(damaged, where=where, fix="restore it from a copy")
