"""The share of a whole run's time that its growth events take: the recipes of the demonstrations."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from measuring.machine import Row, row
from measuring.timing import processor_time

from fxgrow.runs import read_recipe
from fxgrow.runs.run import Run


class Watch:
    """A watcher that takes note of times."""

    def __init__(self) -> None:
        self.events = self.compilation = 0.0
        self._steps: list[float] = []
        self._last = processor_time()
        self._first = False

    def step(self, epoch: int, loss: float) -> None:
        """Take note of a step's time; of the first behind an event only what is more than usual."""
        now = processor_time()
        taken, self._last = now - self._last, now
        if self._first and self._steps:
            self.compilation += max(0.0, taken - median(self._steps))
        else:
            self._steps.append(taken)
        self._first = False

    def epoch(self, metrics: Any) -> None:
        """Leave the time of the tests out of the next step."""
        self._last = processor_time()

    def grown(self, event: Any) -> None:
        """Take note of an event's time."""
        now = processor_time()
        self.events += now - self._last
        self._last, self._first = now, True


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    yield from _rows_of("digits", {"epochs": 4, "data.images": 256, "growth.samples": 64} if quick else {})
    yield from _rows_of("half_steps", {"epochs": 4, "data.images": 2048} if quick else {})


def _rows_of(recipe: str, changes: dict[str, Any]) -> Iterator[Row]:
    """Yield what the events of a recipe cost of its training."""
    run, watch = Run(read_recipe(recipe, changes)), Watch()
    started = processor_time()
    run.train(watch)
    whole = processor_time() - started
    yield row(f"`{recipe}`: the training, seconds of a processor", f"{whole:.0f}")
    yield row(f"`{recipe}`: its events, over all of it", f"{watch.events / whole:.1%}")
    yield row(f"`{recipe}`: the first steps behind them, beyond the usual", f"{watch.compilation / whole:.1%}")
    yield row(f"`{recipe}`: both", f"{(watch.events + watch.compilation) / whole:.1%}", "at most 15 %")
