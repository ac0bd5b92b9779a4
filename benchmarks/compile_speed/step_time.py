"""Step time of a grown DeiT over its base's, beside the ratio of their FLOPs."""

from collections.abc import Iterator

import torch
import torch.fx as fx
from measuring.machine import Row, row
from measuring.timing import elapsed, ratio_in_pairs, step
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fxgrow
from compile_speed.models import deit, random_scores
from fxgrow.primitives.modules import parameter_count

TARGET = "at most 1.10"


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    model, traced, images = deit("tiny", 2, depth=2) if quick else deit("small", 4)
    pairs = 3 if quick else 9
    base = step(fxgrow.compile(traced), images)
    yield row(f"one step of the base, {len(images)} images, seconds", f"{_warm(base):.2f}")
    whole = step(torch.compile(model), images)
    _warm(whole)
    yield row("the base compiled by block over compiled whole", f"{ratio_in_pairs(base, whole, pairs):.3f}", "1")
    for budget in (0.10, 0.50):
        for name, grown in variants(traced, budget, quick):
            size = parameter_count(grown) / parameter_count(traced) - 1
            work = flops(grown, images) / flops(traced, images)
            grown_step = step(fxgrow.compile(grown), images)
            _warm(grown_step)
            ratio = ratio_in_pairs(grown_step, base, pairs)
            value = f"{ratio / work:.3f} (step {ratio:.3f}, FLOPs {work:.3f})"
            yield row(f"{name}, {size:+.1%} parameters", value, "" if "published" in name else TARGET)


def variants(traced: fx.GraphModule, budget: float, quick: bool) -> Iterator[tuple[str, fx.GraphModule]]:
    """Yield the grown models, with their names."""
    scores = random_scores(traced)
    for operator in ("serial", "branch", "gated"):
        yield operator, fxgrow.grow(traced, scores, budget=budget, operator=operator)
    yield "paper (the published pair)", fxgrow.grow(traced, scores, budget=budget, operator="paper")
    for operator in ("branch",) if quick else ("branch", "gated"):
        twice = fxgrow.grow(traced, scores, budget=budget / 2, operator=operator)
        scores_again = random_scores(twice, scores, seed=1)
        rest = parameter_count(twice) - parameter_count(traced)
        twice = fxgrow.grow(twice, scores_again, budget=rest, operator=operator)
        yield f"{operator} in two events", twice
        yield f"{operator} in two events, then merge-branches", fxgrow.merge_branches(twice)


def flops(graph_module: fx.GraphModule, images: Tensor) -> int:
    """Count the FLOPs of the matrix products of one forward and backward pass, those of attention among them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step(graph_module, images)()
    return counter.get_total_flops()


def _warm(function: object) -> float:
    """Compile, and make two steps that do not count; return the time of the second."""
    assert callable(function)
    function(), function()
    return elapsed(function)
