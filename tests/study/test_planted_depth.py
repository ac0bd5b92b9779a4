"""Planted depth: scores find the outputs that a linear map cannot make, among others whose residual is as large.

16 outputs of one linear map that already fits them as well as it can. Four are *hard*: what is missing is a function of
the input. The others are *easy*: what is missing is noise of the same variance, so that its size tells nothing.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxgrow

OUTPUTS, HARD, FEATURES, SAMPLES, TASKS = 16, 4, 8, 1024, 10
CHANCE = HARD / OUTPUTS


def _planted(seed: int) -> tuple[fx.GraphModule, list[tuple[Tensor, Tensor]], set[int]]:
    """Return the fitted map, the data, and which outputs are hard."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(SAMPLES, FEATURES))
    missing = generator.normal(size=(SAMPLES, OUTPUTS))
    hard = generator.permutation(OUTPUTS)[:HARD]
    hidden = np.tanh(x @ generator.normal(size=(FEATURES, 24)) / 1.5) ** 2
    function = hidden @ generator.normal(size=(24, HARD))
    missing[:, hard] = (function - function.mean(0)) / function.std(0)
    y = x @ generator.normal(size=(FEATURES, OUTPUTS)) / FEATURES**0.5 + missing
    fitted = np.linalg.lstsq(np.c_[x, np.ones(SAMPLES)], y, rcond=None)[0]
    site = nn.Linear(FEATURES, OUTPUTS)
    with torch.no_grad():
        site.weight.copy_(torch.tensor(fitted[:-1].T))
        site.bias.copy_(torch.tensor(fitted[-1]))
    inputs, targets = torch.tensor(x).float(), torch.tensor(y).float()
    batches = [(inputs[i::4], targets[i::4]) for i in range(4)]
    return fxgrow.trace(nn.Sequential(site), inputs[:4]), batches, set(hard.tolist())


def _share_of_hard(score: str) -> tuple[float, float]:
    """Return the share of chosen outputs that are hard, over the tasks, and the error of a share by chance."""
    hits = 0
    for seed in range(TASKS):
        model, batches, hard = _planted(seed)
        priority = fxgrow.analyze(model, F.mse_loss, batches, score=score)["0"].priority
        hits += len(hard & set(priority.topk(HARD).indices.tolist()))
    picks = TASKS * HARD
    return hits / picks, (CHANCE * (1 - CHANCE) / picks) ** 0.5


@pytest.mark.parametrize("score", ["eigen", "gain"])
def test_scores_choose_the_hard_outputs(score: str) -> None:
    share, error = _share_of_hard(score)
    assert share > CHANCE + 5 * error
    assert share > 0.8


@pytest.mark.parametrize("score", ["random", "residual"])
def test_what_does_not_look_at_the_input_chooses_by_chance(score: str) -> None:
    share, error = _share_of_hard(score)
    assert abs(share - CHANCE) < 4 * error
