"""Read what ``torch.save`` wrote, without torch: plain data, and tensors as places in the archive.

An archive of PyTorch is a zip file whose ``data.pkl`` holds the document and whose ``data/0``, ``data/1``, … hold the
bytes of the tensors. The three names that plain data and tensors need are known, and any other is refused.
"""

import hashlib
import math
import pickle
import zipfile
from dataclasses import dataclass
from typing import Any

from fxgrow.files.layout import update
from fxgrow.files.plain_pickle import PlainUnpickler

#: dtype and bytes of a number, by the storage class that a pickle names
_STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
    "ComplexDoubleStorage": ("complex128", 16), "ComplexFloatStorage": ("complex64", 8),
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor, as the place of its bytes."""

    key: str  #: its storage is the entry ``data/KEY``
    dtype: str
    item_size: int  #: bytes of a number
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How many bytes its numbers take."""
        return self.item_size * math.prod(self.shape)

    def checksum(self, archive: zipfile.ZipFile, root: str) -> str:
        """Return what `fxgrow.files.checksums.checksum_of_tensor` returns for it."""
        hasher = hashlib.sha256(f"torch.{self.dtype} {self.shape}".encode())
        with archive.open(f"{root}/data/{self.key}") as stream:
            update(hasher, stream, self.bytes)
        return hasher.hexdigest()


def read_document(archive: zipfile.ZipFile, root: str) -> Any:
    """Return the document of an archive whose entries lie in the folder `root`.

    Raises:
        pickle.UnpicklingError: If it holds more than plain data and whole tensors in row-major order, or is damaged.
    """
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise pickle.UnpicklingError("its numbers are written the other way round")
    return PlainUnpickler(archive.read(f"{root}/data.pkl"), _find, _storage).load()


def _find(module: str, name: str) -> Any:
    if module == "torch" and name in _STORAGES:
        return _STORAGES[name]
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _stored_tensor
    if (module, name) == ("collections", "OrderedDict"):
        return _no_hooks
    raise pickle.UnpicklingError(f"{module}.{name} is no plain data")


def _storage(identifier: Any) -> Any:
    kind, (dtype, item_size), key, _device, numbers = identifier
    if kind != "storage" or not key.isdecimal():
        raise pickle.UnpicklingError("it refers to what is no storage")
    return key, dtype, item_size, numbers


def _no_hooks() -> dict[str, Any]:
    """Return what stands where a tensor's hooks would: an OrderedDict that nothing was put into."""
    return {}


def _stored_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    key, dtype, item_size, numbers = storage
    if offset != 0 or math.prod(shape) != numbers or not _row_major(shape, stride):
        raise pickle.UnpicklingError("a tensor is not its storage, number by number")
    return StoredTensor(key, dtype, item_size, tuple(shape))


def _row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
