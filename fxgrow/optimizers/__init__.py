"""Optimizers whose parameters change between two steps: they take new ones in, exchange and drop old ones."""
