"""What a step costs: floating-point operations, attention's own products included."""

from collections.abc import Sequence
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from study.networks import Architecture, Shape, skeleton


def flops(architecture: Architecture, shapes: Sequence[Shape]) -> int:
    """Return the floating-point operations of a forward and a backward pass on one sample: three times the forward."""
    return _flops(architecture, tuple(shapes))


@cache
def _flops(architecture: Architecture, shapes: tuple[Shape, ...]) -> int:
    network = skeleton(architecture, shapes)
    size = (1, architecture.tokens) if architecture.text else (1, architecture.tokens, architecture.features)
    dtype = torch.long if architecture.text else torch.float
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(size, dtype=dtype, device="meta"))
    return 3 * counter.get_total_flops()
