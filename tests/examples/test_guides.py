"""The code of the guides, as a reader would type it, each page in a session and an empty folder of its own."""

import re
import sys
import types
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("first_steps.md", "choosing.md", "which_sites.md", "files.md", "report.md")


@pytest.mark.parametrize("page", GUIDES)
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_python_of_a_guide_runs_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    session = types.ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), session.__dict__)
