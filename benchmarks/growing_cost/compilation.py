"""What a growth event compiles, in training steps of DeiT-Ti at 64 pixels."""

from collections.abc import Iterator

import timm
import torch
from measuring.machine import Row, row, seconds
from measuring.timing import elapsed, processor_time

import fxgrow
from growing_cost.event import batches, growing_training


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    images = 8 if quick else 64
    torch.manual_seed(0)
    options = {"depth": 2} if quick else {}
    model = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=100, **options)
    data = batches(64, images, 2 * images)
    grower, step = growing_training(fxgrow.trace(model, data[0][0][:2]), data, compile=True)
    step()  # compiles the base
    usual = seconds(step, clock=processor_time)
    grower.grow(data)
    first, later = elapsed(step, processor_time), seconds(step, clock=processor_time)
    yield row(f"the first step behind an event over a later one, steps of {images}", f"{(first - later) / usual:.0f}")
    yield row("a step behind the event over one before it", f"{later / usual:.2f}")
