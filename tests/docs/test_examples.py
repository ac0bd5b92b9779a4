"""What the gate runs as a whole, `examples/*.py`, is listed where readers look, and each says how to run it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_shows_and_how_to_run_it(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"Run: python examples/{path.name}" in told
    assert path.name in (ROOT / "docs" / "examples.md").read_text()
