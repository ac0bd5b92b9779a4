"""A run: the training loop, and all that goes on together in it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import DivergenceError
from fxgrow.execution.randomness import load_random_state_dict, preserved_randomness, random_state_dict
from fxgrow.runs.batches import Batches
from fxgrow.runs.growing import RunEvent, make_growing
from fxgrow.runs.making import check_classes, examples, find_device, make_loss
from fxgrow.runs.metrics import EpochMetrics
from fxgrow.runs.settings import Settings
from fxgrow.training.divergence import describe_divergence


class Watcher(Protocol):
    """Whoever is told how the training goes."""

    def step(self, epoch: int, loss: float) -> None:
        """Take note of one optimizer step."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Take note of one epoch."""

    def grown(self, event: RunEvent) -> None:
        """Take note of a growth event."""


class Run:
    """What settings describe, ready to train, or to go on from the state of a run of the same settings.

    Args:
        settings: The run.
        name: The model's name in the metrics.

    Raises:
        FxgrowError: If data, model, optimizer or schedule are refused; nothing was trained then.
    """

    def __init__(self, settings: Settings, name: str = "model") -> None:
        self.settings, self.name = settings, name
        self.device = find_device(settings)
        self.batches = Batches(settings)
        self.ranks = self.batches.ranks
        self.growing = make_growing(settings, self.batches, self.device)
        example = examples(self.batches.image_shape).to(self.device)
        check_classes(self.growing.graph_module, example, self.batches.classes)
        self._loss_fn = make_loss(settings)
        self.step = 0  #: optimizer steps made
        self.metrics: list[EpochMetrics] = []
        self._losses: list[float] = []  # of the epoch so far
        self._seconds = 0.0  # of training, before this process and in it
        with preserved_randomness(settings.seed + self.ranks.index):  # dropout is each rank's own
            self._random = random_state_dict()  # at the last moment that a state may be taken of

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.epochs * self.batches.steps

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.step == self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return all that a fresh process needs to go on bit for bit: tensors and plain values.

        To be taken when `train` has returned, or by a watcher at the end of an epoch; on all ranks together, of which
        each gets the whole state.
        """
        return {
            "growing": self.growing.state_dict(),
            "step": self.step,
            "metrics": [asdict(line) for line in self.metrics],
            "losses": list(self._losses),
            "seconds": self._seconds,
            "random": self.ranks.gather(self._random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, on whatever number of ranks."""
        self.growing.load_state_dict(state["growing"])
        self.step, random = state["step"], state["random"]
        self._random = random[self.ranks.index] if self.ranks.index < len(random) else self._random
        self.metrics = [EpochMetrics(**line) for line in state["metrics"]]
        self._losses, self._seconds = list(state["losses"]), state["seconds"]

    def train(self, *watchers: Watcher, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end.

        The global random state is the run's own meanwhile, and comes back.

        Args:
            watchers: Are told of every step, event and epoch.
            stop: Asked behind each step; where it says so on one of the ranks, the training ends there, and can go on
                later.

        Raises:
            DivergenceError: If the loss is not finite.
        """
        started = time.monotonic() - self._seconds

        def stops() -> bool:
            return self.ranks.total(stop()) > 0

        with preserved_randomness():
            load_random_state_dict(self._random)
            if not self.metrics:
                self.metrics.append(self._measure(math.nan))
            while not self.done:
                whole = self._epoch(watchers, stops)
                self._seconds, self._random = time.monotonic() - started, random_state_dict()
                if whole:
                    self._end_epoch(watchers)
                if stops():
                    return

    def _epoch(self, watchers: Sequence[Watcher], stop: Callable[[], bool]) -> bool:
        """Make the steps that are left of an epoch; say whether it was ended."""
        epoch, batches = self.step // self.batches.steps, self.batches.epoch()
        for _ in range(self.batches.steps - self.batches.position):
            if self.growing.due(self.step):
                event = self.growing.grow(self.step)
                for watcher in watchers:
                    watcher.grown(event)
            self._losses.append(self.train_step(*next(batches)))
            self.step += 1
            for watcher in watchers:
                watcher.step(epoch, self._losses[-1])
            if stop():
                break
        return self.batches.position == 0

    def _end_epoch(self, watchers: Sequence[Watcher]) -> None:
        self.metrics.append(self._measure(sum(self._losses) / len(self._losses)))
        self._losses = []
        for watcher in watchers:
            watcher.epoch(self.metrics[-1])

    def train_step(self, images: Tensor, targets: Tensor) -> float:
        """Make one step of the optimizer and of the schedule, and return the loss, the mean over the ranks."""
        model, optimizer = self.growing.model, self.growing.optimizer
        images, targets = images.to(self.device), targets.to(self.device)
        with self.precision():
            output = self.growing.runner(images)
            loss = F.cross_entropy(output, targets) if targets.ndim > 1 else self._loss_fn(output, targets)
        value = self.ranks.mean(loss)
        if not math.isfinite(value):
            what = f"the loss is {value}: {describe_divergence(self.growing.graph_module, images)}"
            raise DivergenceError(what, step=self.step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.settings.optimizer.clip)
        optimizer.step()
        self.growing.scheduler.step()
        if self.growing.average is not None:
            self.growing.average.update_parameters(model)
        return value

    def _measure(self, train_loss: float) -> EpochMetrics:
        """Measure on the test images, with the eager graph: evaluation alone is not worth a second compilation."""
        test_loss, test_accuracy = self._test()
        return EpochMetrics(
            model=self.name,
            epoch=self.step // self.batches.steps,
            parameters=self.growing.parameters,
            flops=self.growing.flops,
            learning_rate=float(self.growing.optimizer.param_groups[0]["lr"]),
            train_loss=train_loss,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            seconds=self._seconds,
        )

    def _test(self) -> tuple[float, float]:
        """Return loss and accuracy on all test images, of which each rank reads its share."""
        model, tested = self.growing.model.eval(), self.growing.tested.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), self.precision():
            for buffer in tested.buffers():  # BatchNorm's averages are of each rank's own images
                buffer.copy_(self.ranks.of_first(buffer))
            for images, labels in self.batches.test_batches():
                outputs = tested(images.to(self.device)).float().cpu()
                loss, hits = F.cross_entropy(outputs, labels, reduction="sum"), (outputs.argmax(dim=1) == labels).sum()
                sums += torch.stack([loss, hits])
        model.train()
        loss, accuracy = (self.ranks.sum(sums) / self.batches.sizes[1]).tolist()
        return loss, accuracy

    def precision(self) -> AbstractContextManager[None]:
        """Return the context in which the model computes."""
        enabled = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
