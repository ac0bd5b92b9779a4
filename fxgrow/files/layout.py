"""What a file of fxgrow holds, and the checksum of its table; known without torch.

A file is what ``torch.save`` writes for one dict of plain data and tensors:

    {"format": "fxgrow", "format_version": 2,
     "table": {...},                        # fxgrow.files.table.Table as plain data
     "state_dict": {"blocks.0.mlp.fc1.weight": tensor, ...},
     "buffers": {...},                      # those that are not in the state dict
     "checksums": {"table": "9f…", "blocks.0.mlp.fc1.weight": "31…", ...}}

The checksum of the table stands under the empty name where a tensor is called ``table``.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import IO, Any

FORMAT = "fxgrow"
#: Raised when an older fxgrow could not read the file; what is only added does not raise it.
VERSION = 2
TABLE = "table"


def checksum_of_plain(plain: Any) -> str:
    """Return the SHA-256 of plain data, spelled as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def checksums_of(table: Any, tensors: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of a file: of its table, and those of its tensors by their names."""
    return {_name_of_table(tensors): checksum_of_plain(table), **tensors}


def damage(table: Any, tensors: Mapping[str, str], stored: Mapping[str, Any]) -> str | None:
    """Say what of a file does not fit the checksums that it was written with; None where all does.

    Args:
        table: The table as plain data.
        tensors: The checksums of the tensors as they are now.
        stored: The checksums of the file.
    """
    found = checksums_of(table, tensors)
    wrong = [name for name, checksum in found.items() if stored.get(name, checksum) != checksum]
    if wrong:
        what = "its table" if wrong[0] == _name_of_table(tensors) else f"the tensor {wrong[0]}"
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f"the file is damaged: {what}{others} does not fit its checksum"
    if found.keys() != stored.keys():
        return "the file is damaged: its tensors are not those that it was written with"
    return None


def _name_of_table(tensors: Mapping[str, str]) -> str:
    return "" if TABLE in tensors else TABLE


def update(hasher: "hashlib._Hash", stream: IO[bytes], size: int) -> None:
    """Hash the next bytes of a stream, a part at a time.

    Raises:
        ValueError: If there are not as many.
    """
    while size:
        part = stream.read(min(size, 1 << 20))
        if not part:
            raise ValueError("there are fewer bytes than its tensors need")
        hasher.update(part)
        size -= len(part)
