"""A progress bar with the time left: one line that is redrawn on a terminal, a line now and then in a log."""

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

_WIDTH = 24
_FIRST, _EVERY = 30.0, 300.0  #: seconds to the first line of a log, and between two


@dataclass
class Bar:
    """How far the work is; ``total`` and what is done are in any one unit.

    The time left is what the work so far took, carried on; work that was done before the bar was made counts in
    the bar and not in the pace.
    """

    total: float
    done: float = 0.0
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def __post_init__(self) -> None:
        self._begun, self._at = time.monotonic(), self.done
        self._shown: float | None = None

    def show(self, said: str, more: float = 0.0) -> None:
        """Show what is being done; ``more`` is the part of it that is done and not yet counted in ``done``."""
        now, terminal = time.monotonic(), self.stream.isatty()
        if self._shown is None:  # what came before was no work: data are read, networks compiled
            self._begun, self._at, self._shown = now, self.done + more, now - _EVERY + _FIRST
        if now - self._shown < (0.2 if terminal else _EVERY):
            return
        self._shown = now
        self.stream.write(f"\r{self.line(said, more)}\033[K" if terminal else self.line(said, more) + "\n")
        self.stream.flush()

    def line(self, said: str, more: float = 0.0) -> str:
        """Return the bar, the share that is done, the time left and what is being done."""
        done = min(self.done + more, self.total)
        share = done / self.total if self.total else 1.0
        filled = round(share * _WIDTH)
        return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}, {self._left(done)} left: {said}"

    def _left(self, done: float) -> str:
        if done <= self._at:
            return "?"
        left = (time.monotonic() - self._begun) / (done - self._at) * (self.total - done)
        minutes = round(left / 60)
        return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"

    def clear(self) -> None:
        """Take the bar away, so that a line can be printed."""
        if self.stream.isatty():
            self.stream.write("\r\033[K")
            self.stream.flush()
