"""The bar says what share of the work is done, and how long the rest will take at the pace so far."""

import io
from itertools import count

import pytest
from study import progress
from study.progress import Bar


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ten minutes pass between any two looks at the clock."""
    ticks = count(0, 600)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("_clock")
@pytest.mark.parametrize(("before", "left"), [(0.0, "30 min"), (20.0, "2 h 30 min")])
def test_the_time_left_is_the_pace_of_this_run_carried_on(before: float, left: str) -> None:
    bar = Bar(100.0, done=before)
    bar.done = 25.0
    assert bar.line("text") == f"[{'#' * 6}{'.' * 18}]  25%, {left} left: text"


@pytest.mark.usefixtures("_clock")
def test_a_terminal_is_drawn_over_and_a_log_gets_lines() -> None:
    terminal, log = _Terminal(), io.StringIO()
    for stream in (terminal, log):
        bar = Bar(10.0, stream=stream)
        bar.show("zero", 1.0)
        bar.show("one", 5.0)
        bar.clear()
    assert terminal.getvalue().startswith("\r[")
    assert "\n" not in terminal.getvalue()
    assert log.getvalue().endswith(" min left: one\n")


def test_the_first_line_of_a_log_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Bar(1000.0, stream=log)
    for second in range(700):
        clock[0] = float(second)
        bar.show(f"second {second}", second)
    assert [line.split("second ")[1] for line in log.getvalue().splitlines()] == ["30", "330", "630"]


def test_a_log_is_not_flooded() -> None:
    log = io.StringIO()
    bar = Bar(10.0, stream=log)
    for step in range(10):
        bar.show("one", step)
    assert log.getvalue() == ""
