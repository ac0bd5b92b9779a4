"""How much two disjoint sets of images agree on the ranking of neurons, on a trained model."""

from collections.abc import Iterator
from statistics import median

import torch.nn.functional as F

from curvature_engine.machine import Row, row
from curvature_engine.models import trained_vit
from fxgrow.curvature import analyze
from fxgrow.curvature.ranks import spearman


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    graph_module, x, y = trained_vit(20 if quick else 600)
    for score in ("splitting", "branch", "residual", "gradient", "paper", "gain"):
        found = []
        for images in (64, 256) if quick else (64, 256, 1024):
            first, second = (
                analyze(
                    graph_module,
                    F.cross_entropy,
                    list(zip(x[part].split(64), y[part].split(64), strict=True)),
                    sites=["blocks.*.mlp.fc1"],
                    score=score,
                )
                for part in (slice(0, images), slice(images, 2 * images))
            )
            shared = [path for path in first if path in second]
            agreement = [spearman(first[p].values, second[p].values) or 0.0 for p in shared]
            held_out = [spearman(first[p].held_out, second[p].held_out) or 0.0 for p in shared]
            found.append(
                f"{images}: {median(agreement):.2f} ({median(held_out):.2f})" if shared else f"{images}: refused"
            )
        yield row(f"{score}, rank correlation of values (of held-out values), by images in each set", ", ".join(found))
