"""The code of docs/export.md, as a reader would type it."""

import re
import warnings
from pathlib import Path

import pytest

for name in ("onnx", "onnxscript", "torch_pruning"):
    pytest.importorskip(name, reason="needs the extra `export`")

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    session: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own libraries deprecate each other
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), session)
    assert (tmp_path / "grown.onnx").exists()
