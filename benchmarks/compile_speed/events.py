"""Many growth events in one run: what each compiles."""

from collections import Counter
from collections.abc import Iterator

import torch
import torch.fx as fx
from measuring.machine import Row, row
from measuring.timing import step
from torch._dynamo.utils import counters

import fxgrow
from compile_speed.models import random_scores, small_transformer
from fxgrow.graph.sites import find_sites
from fxgrow.operators import find_operator

BLOCKS = 12
NEURONS = 4  # that grow at each site
OPERATORS = ("serial", "branch", "gated")


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    events = 4 if quick else 32
    # More graphs for one piece of code than torch allows would run eager, without a word: let it fail.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    compiled, difference = _grow(events, "aot_eager")
    first, *later = compiled
    yield row("growth events, with the backend aot_eager", str(events))
    yield row("graphs of the first compile (first map, block, last map)", str(first), "3")
    counts = ", ".join(f"{count} in {times} events" for count, times in sorted(Counter(later).items()))
    yield row("graphs compiled at an event", counts, "at most 1")
    yield row("graph breaks", str(sum(counters["graph_break"].values())), "0")
    yield row("the recompile limit was hit", "never", "never")  # or this line was not reached
    yield row("compiled and eager outputs differ at most by", f"{difference:.1e}")
    compiled, difference = _grow(1, "inductor")
    yield row("graphs compiled at an event, with inductor", str(compiled[1]), "1")
    yield row("compiled and eager outputs differ at most by, with inductor", f"{difference:.1e}")


def _grow(events: int, backend: str) -> tuple[list[int], float]:
    """Return how many graphs the first compile and each event made, and the greatest error of an output."""
    torch._dynamo.reset()
    counters.clear()
    graph_module, x = small_transformer(BLOCKS), torch.randn(2, 8, 16)
    made, differences = [], []
    model = None
    for event in range(events + 1):
        if event:
            graph_module = _event(graph_module, event)
        before = counters["stats"]["unique_graphs"]
        model, previous = fxgrow.compile(graph_module, backend=backend, fullgraph=True), model
        step(model, x)()
        del previous  # it lends its blocks to the new one, as a Grower's does
        made.append(counters["stats"]["unique_graphs"] - before)
        differences.append(float((model(x) - graph_module(x)).detach().abs().max()))
    return made, max(differences)


def _event(graph_module: fx.GraphModule, event: int) -> fx.GraphModule:
    """Grow two equal blocks in the same way: one new structure."""
    pair = event % (BLOCKS // 2) + 1, event % (BLOCKS // 2) + 1 + BLOCKS // 2
    sites = [f"{block}.{'mlp.fc1' if event % 4 else 'qkv'}" for block in pair]
    scores = random_scores(graph_module, sites, seed=event)
    operator = OPERATORS[event % len(OPERATORS)]
    price = find_operator(operator).parameter_count(find_sites(graph_module)[sites[0]].map, NEURONS)
    return fxgrow.grow(graph_module, scores, budget=len(sites) * price, operator=operator, include=sites)
