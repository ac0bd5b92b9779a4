"""One growth event in training steps, part by part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from measuring.machine import Row, row, seconds
from measuring.timing import processor_time
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import fxgrow
from growing_cost.stopwatch import PARTS, parts_timed

SITES = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


@dataclass(frozen=True)
class EventCost:
    """What an event costs without compilation, in training steps."""

    parts: dict[str, float]
    wrap: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values()) + self.wrap


def batches(size: int, images: int, samples: int, classes: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Return random images and labels; what they show does not matter to time."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(images, 3, size, size, generator=generator),
            torch.randint(classes, (images,), generator=generator),
        )
        for _ in range(samples // images)
    ]


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """Return a function that makes one training step."""
    images, labels = batch

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def measure(traced: torch.fx.GraphModule, data: list[tuple[Tensor, Tensor]], *, steps: int = 3) -> EventCost:
    """Let a model grow once by a tenth, and return what that cost in its training steps."""
    grower, step = growing_training(traced, data, compile=False)
    step()
    usual = seconds(step, steps, processor_time)
    with parts_timed() as stopwatch:
        grower.grow(data)
    parts = {name: stopwatch.seconds[name] / usual for name in dict.fromkeys(name for name, *_ in PARTS)}
    return EventCost(parts, _wrapping(grower.graph_module) / usual)


def growing_training(
    traced: torch.fx.GraphModule, data: list[tuple[Tensor, Tensor]], *, compile: bool
) -> tuple[fxgrow.Grower, Callable[[], None]]:
    """Return a Grower with AdamW and an average, and a function that makes one of its training steps."""
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-4)
    grower = fxgrow.Grower(
        traced,
        F.cross_entropy,
        optimizer,
        ema=AveragedModel(traced),
        budget=0.1,
        at=(1,),
        include=SITES,
        max_samples=sum(len(labels) for _, labels in data),
        compile=compile,
    )
    return grower, training_step(grower.model, optimizer, data[0])


def _wrapping(model: nn.Module) -> float:
    """Return the seconds that DistributedDataParallel takes to wrap a model, in a group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return seconds(lambda: DistributedDataParallel(model), clock=processor_time)
    finally:
        dist.destroy_process_group()


def cost_rows(cost: EventCost, images: int, samples: int) -> Iterator[Row]:
    """Yield a row for each part, and one for all."""
    unit = f"steps of {images}"
    yield row("samples of the event, images of a step", f"{samples}, {images}")
    for name, value in cost.parts.items():
        yield row(f"{name}, {unit}", f"{value:.2f}")
    yield row(f"wrap: DistributedDataParallel, one process, {unit}", f"{cost.wrap:.2f}")
    yield row(f"all of the event but compilation, {unit}", f"{cost.total:.1f}")
