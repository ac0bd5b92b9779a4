"""The sections of ``benchmarks/curvature.py``: each yields rows of what was measured."""
