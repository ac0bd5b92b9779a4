"""The code of docs/inspect.md, as a reader would type it."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "inspect.md"


def test_the_code_of_the_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    session: dict[str, object] = {}
    exec(compile(block, PAGE.name, "exec"), session)
    assert "<table>" in str(session["page"])
