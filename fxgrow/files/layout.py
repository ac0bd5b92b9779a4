"""What a file of fxgrow holds, and the checksum of its table; known without torch.

A file is what ``torch.save`` writes for one dict of plain data and tensors:

    {"format": "fxgrow", "format_version": 2,
     "table": {...},                        # fxgrow.files.table.Table as plain data
     "state_dict": {"blocks.0.mlp.fc1.weight": tensor, ...},
     "buffers": {...},                      # those that are not in the state dict
     "checksums": {"table": "9f…", "blocks.0.mlp.fc1.weight": "31…", ...}}
"""

import hashlib
import json
from typing import IO, Any

FORMAT = "fxgrow"
#: Raised when an older fxgrow could not read the file; what is only added does not raise it.
VERSION = 2
TABLE = "table"


def checksum_of_plain(plain: Any) -> str:
    """Return the SHA-256 of plain data, spelled as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
