"""Random inputs of the models that the census asks."""

from dataclasses import dataclass

BATCH = 2
TOKENS = 12
VOCABULARY = 96


@dataclass(frozen=True)
class Input:
    """A random input: floating point, or whole numbers below `below`, or the whole numbers `at`."""

    shape: tuple[int, ...]
    below: int | None = None
    at: tuple[int, ...] | None = None
