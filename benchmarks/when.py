"""When to advance: at shares of a run that are fixed beforehand, or where the loss flattens.

    python benchmarks/when.py                     # all ways, three seeds: about ten minutes on a core
    python benchmarks/when.py --seeds 0 --ways fixed 'plateau 3, 0.01'

The residual MLP of the demo goes from 1 to 8 blocks inside itself (`fxgrow.Progressive`) on MNIST-1D, in 4,000 steps
and two cosine cycles. A plateau is one of the training loss, means of 40 steps; ``plateau 3, 0.01`` ends a stage where
three means in a row have not beaten the best by 1 %. Cost is parameters x steps; 8 blocks from the first step cost 1.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from study.sources.mnist1d import source

import fxgrow
from fxgrow.runs.residual_mlp import ResidualMLP
from fxgrow.training import CosineCycles, Plateau

STEPS, BATCH, RATE, WINDOW = 4_000, 128, 0.01, 40
FIXED = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    advances: list[int]  #: the step before which each advance was made
    cost: float
    loss: float
    accuracy: float


def train(way: str, seed: int) -> Outcome:
    """Train one network, advancing as `way` says."""
    data = source(1)()
    torch.manual_seed(seed)
    model = ResidualMLP()
    at = [share * STEPS for share in FIXED] if way == "fixed" else plateau(way)
    growing = fxgrow.Progressive(model, data.test_x[:2], depth=1 / 8, at=at)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=RATE, weight_decay=0.01)
    scheduler = CosineCycles(optimizer, STEPS, peaks=(1, 2), warm_up=0.05, last=0.0)
    generator, losses, advances = np.random.default_rng(seed), list[float](), list[int]()
    parameters, spent = [stage.parameters for stage in growing.costs().stages], 0
    for step in range(STEPS):
        asked = way == "fixed" or (step and step % WINDOW == 0)
        if asked and growing.due(step, metric=float(np.mean(losses[-WINDOW:] or [0.0]))):
            growing.advance()
            advances.append(step)
        x, y = data.draw(generator, BATCH)
        optimizer.zero_grad()
        loss = F.cross_entropy(growing(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        spent += parameters[growing.stage]
    growing.eval()
    with torch.no_grad():
        output = growing(data.test_x)
    accuracy = float((output.argmax(-1) == data.test_y).float().mean())
    return Outcome(advances, spent / (parameters[-1] * STEPS), F.cross_entropy(output, data.test_y).item(), accuracy)


def plateau(way: str) -> Plateau:
    """Read ``plateau PATIENCE, THRESHOLD``."""
    patience, threshold = way.removeprefix("plateau ").split(", ")
    return Plateau(int(patience), threshold=float(threshold))


def main() -> None:
    """Run what the command line asks for, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--ways", nargs="+", default=["fixed", "plateau 2, 0.02", "plateau 3, 0.01", "plateau 5, 0.01"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for way in options.ways:
            found = train(way, seed)
            print(
                f"seed {seed}  {way:16} advances {found.advances!s:20} cost {found.cost:.2f}  "
                f"test loss {found.loss:.4f}  accuracy {found.accuracy:.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
