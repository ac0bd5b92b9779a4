"""Tests of training share a small model and its loop, in a module beside them; faults are those of the benchmark."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "benchmarks")]
