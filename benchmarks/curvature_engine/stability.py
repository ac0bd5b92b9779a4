"""How much two disjoint sets of samples agree on the ranking of neurons, on trained models."""

from collections.abc import Iterator
from itertools import product
from statistics import median

import torch
import torch.fx as fx
import torch.nn.functional as F
from measuring.machine import Row, row
from torch import Tensor

from curvature_engine.models import trained_resnet, trained_vit
from fxgrow.curvature import analyze
from fxgrow.curvature.statistics import spearman

MODELS = {"ViT": (trained_vit, "blocks.*.mlp.fc1"), "ResNet": (trained_resnet, "layer*.conv1")}
SCORES = ("splitting", "branch", "residual", "gradient", "paper", "gain")


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    for (name, (train, sites)), steps in product(MODELS.items(), (20,) if quick else (60, 600)):
        graph_module, x, y = train(steps)
        with torch.no_grad():
            loss = float(F.cross_entropy(graph_module(x), y))
        yield row(f"{name} after {steps} steps of training, loss on all digits", f"{loss:.3f}")
        for score in SCORES:
            found = []
            for samples in (64, 256) if quick else (64, 256, 1024):
                agreement = agreements(graph_module, x[: 2 * samples], y[: 2 * samples], sites, score)
                found.append(f"{samples}: {agreement}")
            yield row(f"{name} after {steps} steps, {score}", ", ".join(found))


def agreements(graph_module: fx.GraphModule, x: Tensor, y: Tensor, sites: str, score: str) -> str:
    """Return the rank correlation of the scores from two halves of some samples, and of their held-out values."""
    first, second = (
        analyze(
            graph_module, F.cross_entropy, list(zip(a.split(64), b.split(64), strict=True)), sites=[sites], score=score
        )
        for a, b in zip(x.chunk(2), y.chunk(2), strict=True)
    )
    shared = [path for path in first if path in second]
    if not shared:
        return "refused"
    values = median(spearman(first[path].values, second[path].values) or 0.0 for path in shared)
    held_out = median(spearman(first[path].held_out, second[path].held_out) or 0.0 for path in shared)
    return f"{values:.2f} ({held_out:.2f})"
