"""Where the units go: everywhere, nowhere, where they are planted, to one output alone, or where a score says."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

import fxgrow
from study.planted import students, teacher
from study.planted.students import UNITS, Students
from study.planted.teacher import HARD, OUTPUTS, Teacher

#: scores of fxgrow by their names there; "trial" is the empirical reference
SCORES = ("gain", "eigen", "quadratic", "residual", "insertion", "gradient")
_PROBE, _TRIAL = 4_096, 150


def scores(base: Students, teachers: Sequence[Teacher], seeds: Sequence[int], peak: float) -> dict[str, Tensor]:
    """Return the priority of each output by each score, (seeds, outputs); more asks for growth."""
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    for index, (own, seed) in enumerate(zip(teachers, seeds, strict=True)):
        data = own.draw(np.random.default_rng((seed, 0, 1)), _PROBE)
        parts = {name: value[index].detach() for name, value in base.parameters.items()}
        network = teacher.module({name: value[0] if "bias" in name else value for name, value in parts.items()})
        traced = fxgrow.trace(network, data.x[:4])
        batches = [(data.x[part::4], data.y[part::4]) for part in range(4)]
        for name in SCORES:
            score = fxgrow.analyze(traced, teacher.loss, batches, score=name, sites=["4"])["4"]
            found[name].append(score.priority.float())
    return {name: torch.stack(each) for name, each in found.items()} | {"trial": _trial(base, teachers, seeds, peak)}


def _trial(base: Students, teachers: Sequence[Teacher], seeds: Sequence[int], peak: float) -> Tensor:
    """Return by how much more each output's error falls in a short training with units than without them."""
    amounts = torch.stack([torch.full((OUTPUTS,), UNITS // OUTPUTS), torch.zeros(OUTPUTS, dtype=torch.long)])
    tried = students.grow(base, seeds, amounts[:, None].repeat(1, len(seeds), 1))
    students.train(tried, teachers, seeds, range(students.GROWTH, students.GROWTH + _TRIAL), peak)
    with_units, without = students.errors(tried, teachers, seeds).view(2, len(seeds), OUTPUTS)
    return without - with_units


def allocations(found: Mapping[str, Tensor], teachers: Sequence[Teacher], seeds: Sequence[int]) -> dict[str, Tensor]:
    """Return how many units each output gets in each arm, (seeds, outputs); all but the first have the same sum."""
    even = torch.full((len(seeds), OUTPUTS), UNITS // OUTPUTS)
    arms = {"not grown": 0 * even, "even": even}
    arms["random four"] = torch.stack([_four(_shuffled(seed)) for seed in seeds])
    arms["planted four"] = torch.stack([_four(own.hard) for own in teachers])
    arms["four easy ones"] = torch.stack([_four(own.easy[-HARD:]) for own in teachers])
    for name, values in found.items():
        arms[f"{name}, best four"] = torch.stack([_four(each.topk(HARD).indices) for each in values])
        arms[f"{name}, in proportion"] = torch.stack([in_proportion(each) for each in values])
    for output in range(OUTPUTS):
        alone = torch.zeros(OUTPUTS, dtype=torch.long)
        alone[output] = UNITS
        arms[f"output {output} alone"] = alone.repeat(len(seeds), 1)
    return arms


def _four(chosen: Tensor) -> Tensor:
    counts = torch.zeros(OUTPUTS, dtype=torch.long)
    counts[chosen] = UNITS // HARD
    return counts


def _shuffled(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, 7)).permutation(OUTPUTS)[:HARD])


def in_proportion(score: Tensor) -> Tensor:
    """Return units in proportion to what is positive of a score, by largest remainders; evenly if nothing is."""
    positive = score.clamp(min=0).double()
    positive = positive if positive.sum() > 0 else torch.ones_like(positive)
    wanted = UNITS * positive / positive.sum()
    counts = wanted.floor().long()
    counts[(wanted - counts).topk(UNITS - int(counts.sum())).indices] += 1
    return counts
