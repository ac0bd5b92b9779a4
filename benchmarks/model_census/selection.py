"""Choose, for each timm family, the model with the fewest parameters, and the smallest images that suit it."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import track

from model_census.building import wake
from model_census.candidates import BATCH, TIMM_MODELS

#: Sizes of images that are tried, ascending; a network that halves five times has a map of 2 x 2 at the end.
SIZES = (64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)


def select() -> None:
    """Write `timm_models.json`: family, model, parameters, size of the images, arguments that the size needs."""
    import timm

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {}
    for family in track(timm.list_modules(), description="families"):
        parameters, model = min(_sizes_of(family))
        size, arguments = _smallest_images(model)
        rows[family] = {"model": model, "parameters": parameters, "size": size, "arguments": arguments}
    TIMM_MODELS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _sizes_of(family: str) -> Iterator[tuple[int, str]]:
    """Yield the number of parameters and the name of each model of a family, but for timm's own test models."""
    import timm

    for name in timm.list_models(module=family):
        if not name.startswith("test_"):
            with torch.device("meta"):
                model = timm.create_model(name)
            yield sum(parameter.numel() for parameter in model.parameters()), name


def _smallest_images(name: str) -> tuple[int, dict[str, Any]]:
    """Return the size of the smallest images that suit a model, and the arguments that this needs.

    A size suits if the model runs in both modes and no parameter is idle that has work at the model's usual size:
    where attention is left with a single token, queries and keys have no gradient.
    """
    import timm

    usual = timm.get_pretrained_cfg(name, allow_unregistered=True)
    usual_size = usual.input_size[-1] if usual is not None else 224
    always_idle = None
    for size in sorted({*(size for size in SIZES if size < usual_size), usual_size}):
        for arguments in ({}, {"img_size": size}):
            idle = _idle_parameters(name, size, arguments)
            if idle and always_idle is None:
                always_idle = _idle_parameters(name, usual_size, {})
            if idle is not None and idle <= (always_idle or set()):
                return size, arguments
    raise RuntimeError(f"{name} runs on no images up to {usual_size} x {usual_size}")


def _idle_parameters(name: str, size: int, arguments: dict[str, Any]) -> set[str] | None:
    """Return the parameters without gradient; None if the model does not take images of this size."""
    import timm

    try:
        model = timm.create_model(name, **arguments)
        wake(model)
        images = torch.randn(BATCH, 3, size, size)
        with torch.no_grad():
            evaluated = model.eval()(images)
        trained = model.train()(images)
    except Exception:  # a model says in its own way that it does not take images of this size
        return None
    if not (torch.isfinite(evaluated).all() and torch.isfinite(trained).all()):
        return None
    trained.square().sum().backward()
    return {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
