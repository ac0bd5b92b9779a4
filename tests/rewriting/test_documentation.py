"""The examples of docs/rewrites.md and of the rewrites' docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "rewrites.md"


def test_every_example_of_the_page_runs() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 20
    assert results.failed == 0


@pytest.mark.parametrize("name", ["insertions", "simplifications", "undoing", "widths"])
def test_every_example_of_the_docstrings_runs(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"fxgrow.rewriting.{name}"))
    assert results.attempted
    assert results.failed == 0


def test_the_page_has_a_section_for_every_rewrite() -> None:
    sections = {line.removeprefix("## ") for line in PAGE.read_text().splitlines() if line.startswith("## ")}
    from fxgrow.passes import available_passes

    assert set(available_passes()) - {"eliminate-dead-code", "functionalize-inplace"} <= sections
