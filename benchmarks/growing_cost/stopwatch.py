"""Where the time of one growth event goes: functions are timed while it runs, each without those that it calls.

Times are of the processor, so that what else the machine does is not counted.
"""

import functools
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from measuring.timing import processor_time

import fxgrow.curvature.probe
import fxgrow.passes.base
from fxgrow.curvature.capture import ForwardPass
from fxgrow.training.events import Event
from fxgrow.training.growing import Growing

#: the part of an event that a function is, where it is looked up, and its name
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("read the probe data", Event, "read"),
    ("probe: forward and backward passes", fxgrow.curvature.probe, "forward_pass"),
    ("probe: forward and backward passes", ForwardPass, "gradients"),
    ("scores", Event, "measure"),
    ("loss before and after", Event, "loss"),
    ("plan", importlib.import_module("fxgrow.growth.grow"), "plan"),  # the package has a function of that name
    ("rewrite", Event, "grow"),
    ("optimizer", fxgrow.passes.base, "carry_over"),
    ("hand over, average of the weights", Growing, "become"),
)
#: the parts whose time grows with the number of samples
BY_SAMPLE = ("read the probe data", "probe: forward and backward passes", "scores")


class Stopwatch:
    """Seconds by part; a part that runs inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block for a part."""
        self._note()
        self._running.append(name)
        try:
            yield
        finally:
            self._note()
            self._running.pop()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts for a part."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _note(self) -> None:
        now = processor_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def parts_timed() -> Iterator[Stopwatch]:
    """Time the parts of the events that happen in the block."""
    stopwatch = Stopwatch()
    with ExitStack() as stack:
        for name, owner, attribute in PARTS:
            timed = stopwatch.wrap(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield stopwatch
