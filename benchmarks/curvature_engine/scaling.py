"""How the cost of an analysis grows with units, width, tokens and batch: fitted exponents."""

from collections.abc import Iterator

import torch
from measuring.machine import Row, row, seconds
from measuring.timing import exponent
from torch import nn

from fxgrow.curvature import analyze

AXES = {"candidates": "at most 1", "tokens": "at most 1", "batch": "at most 1", "width": ""}
BASE = {"candidates": 512, "width": 256, "tokens": 64, "batch": 16}


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    factors = (1, 2) if quick else (1, 2, 4, 8)
    for axis, target in AXES.items():
        sizes = [BASE[axis] * factor for factor in factors]
        times = [_time({**BASE, axis: size}) for size in sizes]
        yield row(f"exponent in {axis}, {sizes[0]} to {sizes[-1]}", f"{exponent(sizes, times):.2f}", target)


def _time(shape: dict[str, int]) -> float:
    """Return the time of the analysis of one layer, the passes that capture it included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(shape["width"], shape["units"]), nn.GELU(), nn.Linear(shape["units"], 8))
    graph_module = torch.fx.symbolic_trace(model)
    x = torch.randn(shape["batch"], shape["tokens"], shape["width"])
    batches = [(x, torch.zeros(1))]
    return seconds(
        lambda: analyze(graph_module, lambda o, t: o.square().mean() + t.sum(), batches, sites=["0"], iterations=8)
    )
