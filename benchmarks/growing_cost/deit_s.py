"""An event of the paper's DeiT-S, half as wide at 224 pixels, and what its schedule costs."""

from collections.abc import Iterator

import timm
import torch
from measuring.machine import Row, row

import fxgrow
from growing_cost.event import EventCost, batches, cost_rows, measure
from growing_cost.stopwatch import BY_SAMPLE

EPOCHS, IMAGES, EVENTS, SAMPLES = 300, 126_689, 9, 1024  #: the paper's; samples as the recipe reads them


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    images, samples, size = (4, 8, 64) if quick else (8, 32, 224)
    torch.manual_seed(0)
    options = {"depth": 2, "img_size": size} if quick else {}
    model = timm.create_model("deit_small_patch16_224", num_classes=100, **options)
    data = batches(size, images, samples)
    traced = fxgrow.slim(fxgrow.trace(model, data[0][0][:2]), 0.5)
    cost = measure(traced, data)
    yield from cost_rows(cost, images, samples)
    share = schedule_share(cost, images, samples)
    what = f"the paper's schedule, {EVENTS} events on {SAMPLES} samples each, over its training (extrapolated)"
    yield row(what, f"{share:.3%}", "at most 1 %")


def schedule_share(cost: EventCost, images: int, samples: int) -> float:
    """Return the time of the paper's events over that of its training."""
    scaled = {name: value * (SAMPLES / samples if name in BY_SAMPLE else 1) for name, value in cost.parts.items()}
    event = sum(scaled.values()) + cost.wrap
    return EVENTS * event / (EPOCHS * IMAGES / images)
