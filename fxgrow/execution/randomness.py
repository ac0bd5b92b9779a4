"""The global random state: looked after, so that nothing in fxgrow moves it."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore the random state of torch (CPU and the accelerator in use), Python and numpy, also after an error.

    Args:
        seed: If given, all of them are seeded with it on entering. An accelerator that is not in use yet hears nothing
            of it: `torch.manual_seed` would note the seed for the moment when it starts, over the user's own.
    """
    numpy, accelerator = _numpy(), _accelerator()
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy and numpy.random.get_state()
    accelerator_state = accelerator and _of_all_devices(accelerator, "get_rng_state")()
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed % 2**32)
            if accelerator:
                _of_all_devices(accelerator, "manual_seed")(seed)
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if accelerator:
            _of_all_devices(accelerator, "set_rng_state")(accelerator_state)


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


def random_state_dict() -> dict[str, Any]:
    """Return the random state of torch (the CPU and the accelerator), Python and numpy, as `torch.load` takes it."""
    numpy, accelerator = _numpy(), _accelerator()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if accelerator is not None:
        state["accelerator"] = accelerator.get_rng_state()
    if numpy:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = (name, torch.from_numpy(keys.astype("int64")), *rest)
    return state


def load_random_state_dict(state: Mapping[str, Any]) -> None:
    """Go on with the random numbers that follow those before `random_state_dict`; other devices are left alone."""
    numpy, accelerator = _numpy(), _accelerator()
    torch.set_rng_state(state["torch"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if accelerator is not None and "accelerator" in state:
        accelerator.set_rng_state(state["accelerator"].cpu())
    if numpy and "numpy" in state:
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.cpu().numpy().astype("uint32"), *rest))


def _accelerator() -> Any:
    """Return torch's module for the accelerator of this machine, if it is in use and has a random state."""
    if not torch.accelerator.is_available():
        return None
    module = torch.get_device_module(torch.accelerator.current_accelerator())
    used = getattr(module, "is_initialized", lambda: True)()
    return module if used and hasattr(module, "get_rng_state") else None


def _of_all_devices(accelerator: Any, name: str) -> Callable[..., Any]:
    """Return a function of the accelerator's module in its form for all devices, where there can be several."""
    return getattr(accelerator, f"{name}_all", None) or getattr(accelerator, name)


def _numpy() -> Any:
    """Return numpy if something has loaded it; torch does so lazily."""
    return sys.modules.get("numpy")
