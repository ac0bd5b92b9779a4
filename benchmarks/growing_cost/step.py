"""A training step between two growth events, over the same step without fxgrow."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from measuring.machine import Row, row
from measuring.timing import processor_time, ratio_in_pairs
from torch.utils._python_dispatch import TorchDispatchMode

import fxgrow
from growing_cost.event import batches, training_step


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    images, pairs = (8, 4) if quick else (32, 40)
    torch.manual_seed(0)
    options = {"depth": 2} if quick else {}
    model = timm.create_model("deit_tiny_patch16_224", img_size=64, num_classes=100, **options)
    (batch,) = batches(64, images, images)
    within = _in_a_grower(copy.deepcopy(model), batch)
    without, again = (
        training_step(made, torch.optim.AdamW(made.parameters(), lr=1e-4), batch)
        for made in (model, copy.deepcopy(model))
    )
    for warm_up in (without, again, within):
        warm_up()
    size = f"DeiT-Ti at 64 pixels, eager, batch {images}, {pairs} pairs"
    yield row(size, f"{ratio_in_pairs(within, without, pairs, processor_time):.3f}", "at most 1.01")
    same = ratio_in_pairs(again, without, pairs, processor_time)
    yield row("the loop without fxgrow, over itself", f"{same:.3f}", "1, but for noise")
    more = operations(within) - operations(without)
    yield row("operations of torch that a step makes beyond those without fxgrow", f"{more.total()}", "none")


class _Counting(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], None]) -> Counter[str]:
    """Return how often a step calls each operation of torch."""
    with _Counting() as counting:
        step()
    return counting.counts


def _in_a_grower(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    traced = fxgrow.trace(model, batch[0][:2])
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-4)
    grower = fxgrow.Grower(traced, F.cross_entropy, optimizer, at=(1_000_000,), compile=False)
    step = training_step(grower.model, optimizer, batch)

    def run() -> None:
        assert not grower.due(grower.steps)
        step()

    return run
