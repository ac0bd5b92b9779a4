"""Text that every Python brings: the source of its standard library."""

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.sources.source import Source

CONTEXT = 32
_LIMIT = 4_000_000  #: characters of training text
_TEST_WINDOWS = 2_000


@cache
def source() -> Source:
    """Return windows of 32 characters; each position is to predict the next character.

    The modules at the top level of the library, in the order of their names; every tenth is kept for the test. 97
    characters: the printable ones of ASCII, the line break, and one for all others.
    """
    library = Path(sysconfig.get_path("stdlib"))
    texts = [_encode(path.read_bytes()) for path in sorted(library.glob("*.py"))]
    train = torch.cat([text for i, text in enumerate(texts) if i % 10 != 9])[:_LIMIT]
    test = torch.cat([text for i, text in enumerate(texts) if i % 10 == 9])
    starts = np.linspace(0, len(test) - CONTEXT - 1, _TEST_WINDOWS).astype(int)
    test_x, test_y = _windows(test, starts)

    def draw(generator: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        return _windows(train, generator.integers(len(train) - CONTEXT, size=size))

    return Source(draw, test_x, test_y)


def _encode(text: bytes) -> Tensor:
    codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    codes = torch.where(codes == 10, 127, codes)
    return torch.where((codes < 32) | (codes > 127), 128, codes) - 32


def _windows(text: Tensor, starts: np.ndarray) -> tuple[Tensor, Tensor]:
    positions = torch.from_numpy(starts)[:, None] + torch.arange(CONTEXT)
    return text[positions], text[positions + 1]
