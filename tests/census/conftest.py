"""The census lives beside the benchmarks, which are no package; its processes import `misbehaving` from here."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parent)]
