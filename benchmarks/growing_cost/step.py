"""A training step between two growth events, over the same step without fxgrow."""

import copy
from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F
from measuring.machine import Row, row
from measuring.timing import processor_time, ratio_in_pairs

import fxgrow
from growing_cost.event import batches, training_step


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    images, pairs = (8, 4) if quick else (32, 30)
    torch.manual_seed(0)
    options = {"depth": 2} if quick else {}
    model = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=100, **options)
    (batch,) = batches(64, images, images)
    within = _in_a_grower(copy.deepcopy(model), batch)
    without = training_step(model, torch.optim.AdamW(model.parameters(), lr=1e-4), batch)
    for warm_up in (without, within):
        warm_up()
    ratio = ratio_in_pairs(within, without, pairs, processor_time)
    yield row(f"DeiT-Ti at 64 pixels, eager, batch {images}, {pairs} pairs", f"{ratio:.3f}", "at most 1.01")


def _in_a_grower(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    traced = fxgrow.trace(model, batch[0][:2])
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-4)
    grower = fxgrow.Grower(traced, F.cross_entropy, optimizer, at=(1_000_000,), compile=False)
    step = training_step(grower.model, optimizer, batch)

    def run() -> None:
        assert not grower.due(grower.steps)
        step()

    return run
