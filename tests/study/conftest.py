"""The study is no package that installs; it is imported from the folder of the benchmarks."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parent)]
pytest.importorskip("scipy")
