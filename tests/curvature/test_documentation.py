"""The pages on curvature run as they stand, and name what exists."""

import re
from pathlib import Path

import pytest

from fxgrow.curvature import score_names

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page}-{index}")
    for page in ("curvature", "scores")
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block):
    exec(compile(block, "docs", "exec"), {})


def test_every_score_is_in_the_table():
    table = (DOCS / "scores.md").read_text()
    missing = [name for name in score_names() if f"`{name}`" not in table]
    assert not missing
