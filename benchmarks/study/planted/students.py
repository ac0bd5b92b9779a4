"""The networks that learn it: an MLP, and 64 units behind its last hidden layer that are given to single outputs.

The networks of all arms and seeds train as one batch: parameters are stacked, (networks, ...), and AdamW works element
by element.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from study.planted.teacher import INPUTS, OUTPUTS, Teacher

HIDDEN, UNITS = 48, 64
STEPS, GROWTH, BATCH = 1_000, 200, 64
_WIDTHS = (INPUTS, HIDDEN, HIDDEN, OUTPUTS)

Parameters = dict[str, Tensor]
Report = Callable[[int], None]  #: told after each step how many are done


@dataclass
class Students:
    """Stacked networks with the optimizer that trains them.

    Attributes:
        given: which output each unit is added to, one-hot, (networks, units, outputs); None before growth.
    """

    parameters: Parameters
    optimizer: torch.optim.AdamW
    given: Tensor | None = None


def begin(seeds: Sequence[int]) -> Students:
    """Draw the networks of some seeds."""
    parameters: Parameters = {}
    for index, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
        parameters[f"weight{index}"] = _drawn(seeds, index, (inputs, outputs))
        parameters[f"bias{index}"] = torch.zeros(len(seeds), 1, outputs)
    return _with_optimizer(parameters)


def _drawn(seeds: Sequence[int], salt: int, shape: tuple[int, int]) -> Tensor:
    bound = shape[0] ** -0.5
    return torch.stack(
        [torch.from_numpy(np.random.default_rng((seed, salt)).uniform(-bound, bound, shape)).float() for seed in seeds]
    )


def _with_optimizer(parameters: Parameters) -> Students:
    parameters = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    return Students(parameters, torch.optim.AdamW(parameters.values(), weight_decay=0.01))


def grow(students: Students, seeds: Sequence[int], given: Tensor) -> Students:
    """Return copies of the networks, one for each arm, with their moments and new units that are silent.

    Args:
        students: one network for each seed.
        seeds: the seeds.
        given: how many units each output gets, (arms, seeds, outputs); the sum is the same everywhere, or zero.
    """
    arms = len(given)
    repeated = {name: value.detach().repeat(arms, 1, 1) for name, value in students.parameters.items()}
    new = {
        "in_weight": _drawn(seeds, 9, (HIDDEN, UNITS)).repeat(arms, 1, 1),
        "in_bias": torch.zeros(arms * len(seeds), 1, UNITS),
        "out_weight": torch.zeros(arms * len(seeds), 1, UNITS),
    }
    grown = _with_optimizer(repeated | new)
    for name, value in students.parameters.items():
        old = students.optimizer.state[value]
        moments = {key: old[key].repeat(arms, 1, 1) for key in ("exp_avg", "exp_avg_sq")}
        grown.optimizer.state[grown.parameters[name]] = moments | {"step": old["step"].clone()}
    grown.given = torch.stack([_one_hot(counts) for counts in given.flatten(0, 1)])
    return grown


def _one_hot(counts: Tensor) -> Tensor:
    """Return the outputs of the units, one after the other, (units, outputs); units that nobody gets are cut off."""
    chosen = torch.repeat_interleave(torch.arange(OUTPUTS), counts)
    found = torch.zeros(UNITS, OUTPUTS)
    found[torch.arange(len(chosen)), chosen] = 1.0
    return found


def outputs(students: Students, x: Tensor) -> Tensor:
    """Return what the networks make of x, (networks, samples, inputs)."""
    own = students.parameters
    for index in range(2):
        x = F.gelu(torch.baddbmm(own[f"bias{index}"], x, own[f"weight{index}"]))
    made = torch.baddbmm(own["bias2"], x, own["weight2"])
    if students.given is None:
        return made
    units = F.gelu(torch.baddbmm(own["in_bias"], x, own["in_weight"])) * own["out_weight"]
    return torch.baddbmm(made, units, students.given)


def rate(step: int, peak: float) -> float:
    """Return the learning rate of a step: a warm-up of 5 %, and a cosine to zero."""
    time = (step + 0.5) / STEPS
    return peak * min(1.0, time / 0.05) * (1 + np.cos(np.pi * max(0.0, (time - 0.05) / 0.95))) / 2


def train(
    students: Students,
    teachers: Sequence[Teacher],
    seeds: Sequence[int],
    steps: range,
    peak: float,
    report: Report = lambda step: None,
) -> None:
    """Train in place; arms with the same seed see the same fresh data."""
    for step in steps:
        drawn = [
            teacher.draw(np.random.default_rng((seed, step)), BATCH)
            for teacher, seed in zip(teachers, seeds, strict=True)
        ]
        x, y = torch.stack([data.x for data in drawn]), torch.stack([data.y for data in drawn])
        arms = len(students.parameters["weight0"]) // len(seeds)
        error = (outputs(students, x.repeat(arms, 1, 1)) - y.repeat(arms, 1, 1)).square().mean((1, 2)).sum()
        students.optimizer.zero_grad()
        error.backward()
        students.optimizer.param_groups[0]["lr"] = rate(step, peak)
        students.optimizer.step()
        report(step + 1)


def errors(students: Students, teachers: Sequence[Teacher], seeds: Sequence[int], samples: int = 2_048) -> Tensor:
    """Return each output's mean squared error without noise, on data that no step has seen, (networks, outputs)."""
    drawn = [
        teacher.draw(np.random.default_rng((seed, STEPS, 1)), samples)
        for teacher, seed in zip(teachers, seeds, strict=True)
    ]
    x, clean = torch.stack([data.x for data in drawn]), torch.stack([data.clean for data in drawn])
    found = []
    with torch.no_grad():
        for first in range(0, len(students.parameters["weight0"]), len(seeds)):
            chosen = slice(first, first + len(seeds))
            own = {name: value[chosen] for name, value in students.parameters.items()}
            given = None if students.given is None else students.given[chosen]
            part = Students(own, students.optimizer, given)
            found.append((outputs(part, x) - clean).square().mean(1))
    return torch.cat(found)
