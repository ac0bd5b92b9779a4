"""A score of your own, made of one that is there: the gradient of a neuron's weights over the size of the weights.

Run: python examples/write_a_score.py    (seconds)
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.curvature import Measurement, Score, find_score


@dataclass(frozen=True)
class RelativeGradient(Score):
    """``|dL/dw| / |w|`` of each neuron's weights w, with held-out value and error bar; large ones ask for growth."""

    name: ClassVar[str] = "relative-gradient"
    sign: ClassVar[int] = +1

    def measure(self, probe):
        """Return one number for each neuron of each site."""
        found = find_score("gradient")().measure(probe)
        scaled = {}
        for path, scores in found.sites.items():
            size = probe.sites[path].rows(probe.graph_module).detach().double().norm(dim=1)
            values, held_out, stderr = (x / size for x in (scores.values, scores.held_out, scores.stderr))
            scaled[path] = replace(scores, values=values, held_out=held_out, stderr=stderr)
        return Measurement(scaled)


def main() -> None:
    """Score a small model, and grow it by that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3))
    batches = [(torch.randn(128, 8), torch.randint(3, (128,))) for _ in range(4)]
    traced = fxgrow.trace(model, batches[0][0])
    scores = fxgrow.analyze(traced, F.cross_entropy, batches, score=RelativeGradient())
    for path, site in scores.items():
        print(f"{path}: up to {site.values.max():.3f}, {int(site.significant.sum())} of {len(site.values)} significant")
    grown = fxgrow.grow(traced, scores, budget=0.2)
    fxgrow.verify(traced, grown)
    print(f"grew: {[path for path, depths in fxgrow.depth_map(grown).items() if any(depths)]}")


if __name__ == "__main__":
    main()
