"""Figures about accuracy in the README and the pages come from the page of the study's results, which records make."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = (ROOT / "docs" / "results.md").read_text()
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "results.md"})]
NUMBER = r"[+-]?\d+\.\d+"


def _prose(page: Path) -> str:
    """Return what is said, without code, in one line."""
    text = re.sub(r"```.*?```|`[^`\n]*`", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


def _rounded(said: str, known: str) -> bool:
    """Tell whether a number that is said is the known one, rounded to its digits; its sign is left to the sentence."""
    digits = len(said.split(".")[1])
    return abs(abs(float(said)) - abs(float(known))) <= 0.5 * 10**-digits + 1e-9


def _is_known(said: tuple[str, ...], known: list[tuple[str, ...]]) -> bool:
    return any(all(map(_rounded, said, row)) for row in known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_differences_and_their_errors_stand_among_the_results(page: Path) -> None:
    known = re.findall(rf"({NUMBER}) ± ({NUMBER})", RESULTS)
    said = re.findall(rf"({NUMBER})(?: %| points)? \+- ({NUMBER})", _prose(page))
    assert not [each for each in said if not _is_known(each, known)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_intervals_of_costs_and_of_accuracy_stand_among_the_results(page: Path) -> None:
    known = re.findall(rf"({NUMBER}) to ({NUMBER})", RESULTS)
    said = re.findall(rf"(?:\(|interval )({NUMBER}) to ({NUMBER})[;,)]", _prose(page))
    assert not [each for each in said if not _is_known(each, known)]


def test_a_wrong_figure_would_be_seen() -> None:
    known = re.findall(rf"({NUMBER}) ± ({NUMBER})", RESULTS)
    assert known
    assert not _is_known(("0.123456", "0.654321"), known)
    assert _is_known(known[0], known)
