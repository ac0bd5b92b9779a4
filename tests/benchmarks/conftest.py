"""The benchmarks are no package; their modules are imported from their folder."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks")]
