"""The guide's own code, as a reader would type it."""

import re
import sys
import types
from pathlib import Path

import pytest

from fxgrow.passes import registry

GUIDE = Path(__file__).parents[2] / "docs" / "write_a_pass.md"


def test_the_code_of_the_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    session = types.ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), session.__dict__)
    assert len(blocks) == 9
