"""Ctrl-C, and the signal by which clusters end a job: the training ends behind its step."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ends_behind_the_step() -> Iterator[Callable[[], bool]]:
    """Within the block, the first signal is remembered, and the second one is a KeyboardInterrupt.

    Yields:
        Says whether a signal came.
    """
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        print("the run ends behind this step, with a checkpoint; once more ends it now", file=sys.stderr)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, remember) for number in signals]
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
