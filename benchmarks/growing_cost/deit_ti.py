"""An event of DeiT-Ti at 64 pixels."""

from collections.abc import Iterator

import timm
import torch
from measuring.machine import Row

import fxgrow
from growing_cost.event import batches, cost_rows, measure


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    images, samples = (8, 16) if quick else (64, 512)
    torch.manual_seed(0)
    options = {"depth": 2} if quick else {}
    model = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=100, **options)
    data = batches(64, images, samples)
    yield from cost_rows(measure(fxgrow.trace(model, data[0][0][:2]), data), images, samples)
