"""The global random state: looked after, so that nothing in fxgrow moves it."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore the random state of torch (all devices in use), Python and numpy on leaving, also after an error.

    Args:
        seed: If given, torch, Python and numpy are seeded with it on entering.
    """
    numpy = _numpy()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []):
        try:
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                if numpy:
                    numpy.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


def random_state() -> tuple[object, ...]:
    """Return something that differs after a random number was drawn on the CPU, by torch, Python or numpy."""
    numpy = _numpy()
    numpy_state = numpy.random.get_state(legacy=False)["state"] if numpy else {}
    return (
        torch.get_rng_state().numpy().tobytes(),
        hash(random.getstate()),
        numpy_state.get("pos"),
        bytes(numpy_state["key"]) if numpy else b"",
    )


def _numpy() -> Any:
    """Return numpy if something has loaded it; torch does so lazily."""
    return sys.modules.get("numpy")
