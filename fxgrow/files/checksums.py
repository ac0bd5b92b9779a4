"""Checksums that find a flipped bit in a tensor, or in the state of a run."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def checksum_of_tensor(tensor: Tensor) -> str:
    """Return the SHA-256 of a CPU tensor: its dtype, its shape and its bytes in row-major order."""
    hasher = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    hasher.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def checksum_of_state(state: Any) -> str:
    """Return the SHA-256 of nested dicts, lists and tuples of tensors, numbers and strings."""
    hasher = hashlib.sha256()
    _hash(state, hasher)
    return hasher.hexdigest()


def _hash(value: Any, hasher: "hashlib._Hash") -> None:
    if isinstance(value, Tensor):
        hasher.update(checksum_of_tensor(value.cpu()).encode())
    elif isinstance(value, Mapping):
        hasher.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            hasher.update(repr(key).encode())
            _hash(item, hasher)
    elif isinstance(value, list | tuple):
        hasher.update(f"[{len(value)}".encode())
        for item in value:
            _hash(item, hasher)
    else:
        hasher.update(f"{type(value).__name__} {value!r}".encode())
