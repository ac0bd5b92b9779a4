"""The global random state: looked after, so that nothing in fxgrow moves it."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore the random state of torch (all devices in use), Python and numpy on leaving, also after an error.

    Args:
        seed: If given, torch, Python and numpy are seeded with it on entering.
    """
    numpy = sys.modules.get("numpy")
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=devices):
        try:
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                if numpy:
                    numpy.random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)
