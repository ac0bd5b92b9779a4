"""Measurements of grown models under torch.compile; run by benchmarks/compiling.py."""
