"""The sections of benchmarks/growing.py."""
