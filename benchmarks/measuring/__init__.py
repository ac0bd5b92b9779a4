"""What the benchmarks of ratios share: sections in processes of their own, rows, timing, and the page."""
