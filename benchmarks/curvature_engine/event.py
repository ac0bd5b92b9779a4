"""A growth event's whole analysis beside an epoch of training."""

from collections.abc import Iterator

import torch.nn.functional as F
from measuring.machine import Row, row, seconds

from curvature_engine.cost import training_step
from curvature_engine.models import ALL_LINEAR, MLP_UNITS, batch, deit_small
from fxgrow.curvature import analyze

IMAGENET_100 = 126_689


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    graph_module, size = deit_small(quick)
    samples = 32 if quick else 256
    batches = [batch(32, size, seed=seed) for seed in range(samples // 32)]
    step = training_step(graph_module, *batches[0])
    step()
    epoch = seconds(step) * IMAGENET_100 / 32
    yield row("an epoch of ImageNet-100 (126,689 samples, from one step of 32), seconds", f"{epoch:,.0f}")
    for name, patterns in (("MLP units", MLP_UNITS), ("all linear sites", ALL_LINEAR)):
        taken = seconds(lambda p=patterns: analyze(graph_module, F.cross_entropy, batches, sites=p, iterations=8), 1)
        yield row(f"analysis of {name} on {samples} samples, 8 iterations, seconds", f"{taken:,.0f}")
        yield row(f"analysis of {name} over the epoch", f"{taken / epoch:.4f}")
