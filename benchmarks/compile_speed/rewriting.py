"""How long a growth event's rewriting takes, and how that grows with the graph."""

from collections.abc import Callable, Iterator

import torch.fx as fx
from measuring.machine import Row, row, seconds
from measuring.timing import exponent

import fxgrow
from compile_speed.models import deep_mlp, deit, random_scores, small_transformer

SIZES = (600, 1_250, 2_500, 5_000, 10_000)
SHARE = 4  # one site in four grows
OPERATORS = ("serial", "branch", "gated", "paper")


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    repeats = 1 if quick else 3
    traced = deit("small", 2)[1]
    scores = random_scores(traced)
    for operator in OPERATORS:
        taken = [
            seconds(lambda b=budget, o=operator: fxgrow.grow(traced, scores, budget=b, operator=o), repeats)
            for budget in (0.10, 0.50)
        ]
        value = ", ".join(f"{time:.2f}" for time in taken)
        yield row(f"DeiT-S ({len(traced.graph.nodes)} nodes), {operator}, +10 % and +50 %, s", value, "under 1")
    yield row("the tenth event on DeiT-S, serial, +2 % each, seconds", f"{_tenth_event(traced):.2f}")
    for name, build in (("deep MLP", deep_mlp), ("transformer", small_transformer)):
        yield from scaling(name, build, SIZES[:3] if quick else SIZES, repeats)


def scaling(
    name: str, build: Callable[[int], fx.GraphModule], sizes: tuple[int, ...], repeats: int = 1
) -> Iterator[Row]:
    """Yield the time by the number of nodes, and the fitted exponent."""
    per_block = len(build(2).graph.nodes) - len(build(1).graph.nodes)
    nodes, times = [], []
    for size in sizes:
        traced = build(size // per_block)
        scores = random_scores(traced, list(random_scores(traced))[1:-1:SHARE])
        nodes.append(len(traced.graph.nodes))
        times.append(seconds(lambda t=traced, s=scores: fxgrow.grow(t, s, operator="serial"), repeats))
    value = ", ".join(f"{count:,}: {time:.2f}" for count, time in zip(nodes, times, strict=True))
    yield row(f"{name}, one site in {SHARE} grows, seconds by nodes", value)
    yield row(f"{name}, fitted exponent", f"{exponent(nodes, times):.2f}", "at most 1.1")


def _tenth_event(traced: fx.GraphModule) -> float:
    sites = list(random_scores(traced))
    for event in range(9):
        traced = fxgrow.grow(traced, random_scores(traced, sites, seed=event), budget=0.02)
    scores = random_scores(traced, sites, seed=9)
    return seconds(lambda: fxgrow.grow(traced, scores, budget=0.02), 2)
