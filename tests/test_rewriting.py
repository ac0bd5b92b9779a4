"""The examples of docs/rewrites.md and of the rewrites' docstrings run and print what they say."""

import doctest
from pathlib import Path

from fxgrow import rewriting
from fxgrow.passes import available_passes

PAGE = Path(__file__).parents[1] / "docs" / "rewrites.md"


def test_every_example_of_the_page_runs() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 20
    assert results.failed == 0


def test_every_example_of_the_docstrings_runs() -> None:
    results = doctest.testmod(rewriting)
    assert results.attempted > 20
    assert results.failed == 0


def test_the_page_has_a_section_for_every_rewrite() -> None:
    sections = {line.removeprefix("## ") for line in PAGE.read_text().splitlines() if line.startswith("## ")}
    assert set(available_passes()) - {"eliminate-dead-code", "functionalize-inplace"} <= sections
