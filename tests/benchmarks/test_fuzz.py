"""What the fuzz run counts, and what its page tells of a violation."""

from collections import Counter

import fuzz
import pytest
from hypothesis import strategies as st


def test_networks_passes_and_violations_add_up() -> None:
    total = fuzz.Tally(3, Counter(widen=2), refusals=1, largest=1e-17)
    total.add(fuzz.Tally(4, Counter(widen=1, undo=1), refusals=0, largest=1e-16, violations=["a network"]))
    assert total == fuzz.Tally(7, Counter(widen=3, undo=1), refusals=1, largest=1e-16, violations=["a network"])


def test_a_few_networks_pass() -> None:
    tally = fuzz.try_networks(4, seed=0)
    assert tally.networks == 4
    assert tally.violations == []


def test_a_violation_is_told_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def rewrite_wrongly(*_: object) -> None:
        raise AssertionError("output differs by 0.5")

    # nothing to shrink: hypothesis' own search is not what is tested
    monkeypatch.setattr("fxgrow.testing.graph_modules", lambda: st.just(("a network of one layer", ())))
    monkeypatch.setattr("fxgrow.testing.rewrite_at_random", rewrite_wrongly)
    tally = fuzz.try_networks(4, seed=0)
    text = fuzz.page(fuzz.rows(tally, seconds=60), tally.violations)
    assert "| violations of 1e-10 | 1 | 0 |" in text
    assert "AssertionError: output differs by 0.5" in text
    assert "a network of one layer" in text
