"""What a file of fxgrow holds, and the checksums that find a flipped bit.

A file is what ``torch.save`` writes for one dict of plain data and tensors:

    {"format": "fxgrow", "format_version": 1,
     "table": {...},                        # fxgrow.files.table.Table as plain data
     "state_dict": {"blocks.0.mlp.fc1.weight": tensor, ...},
     "buffers": {...},                      # those that are not in the state dict
     "checksums": {"table": "9f…", "blocks.0.mlp.fc1.weight": "31…", ...}}
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

FORMAT = "fxgrow"
#: Raised when an older fxgrow could not read the file; what is only added does not raise it.
VERSION = 1
TABLE = "table"


def checksum_of_plain(plain: Any) -> str:
    """Return the SHA-256 of plain data, spelled as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def checksum_of_tensor(tensor: Tensor) -> str:
    """Return the SHA-256 of a CPU tensor: its dtype, its shape and its bytes in row-major order."""
    hasher = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    hasher.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
