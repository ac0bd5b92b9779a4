"""A saddle that a site cannot leave by itself, and one pseudo-layer along the eigenvector can.

The target is even in one direction of the input, and the data come in pairs x, -x: E[delta] = 0 and E[delta x] = 0 for
a linear map at zero, so that no gradient says where to go, while E[delta x x^T] has a negative eigenvalue along it.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxgrow

DIRECTION, FEATURES = 2, 6


def _batches(even: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Return four batches; without ``even`` the target is noise of the same size, the same for x and -x."""
    generator = np.random.default_rng(0)
    half = generator.normal(size=(4, 128, FEATURES))
    target = half[..., DIRECTION] ** 2
    if not even:
        target = generator.permuted(target.reshape(-1)).reshape(target.shape)
    target = target - target.mean()
    pairs = zip(half, target, strict=True)
    return [(torch.tensor(np.r_[x, -x]).float(), torch.tensor(np.r_[y, y]).float()[:, None]) for x, y in pairs]


def _at_the_saddle(batches: list[tuple[Tensor, Tensor]]) -> fx.GraphModule:
    site = nn.Linear(FEATURES, 1)
    nn.init.zeros_(site.weight)
    nn.init.zeros_(site.bias)
    return fxgrow.trace(nn.Sequential(site), batches[0][0])


def _loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the loss on all data, where the gradient of the linear map is exactly zero."""
    return torch.stack([F.mse_loss(model(x), y) for x, y in batches]).mean()


def _trained(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Return the loss after 200 steps of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        _loss(model, batches).backward()
        optimizer.step()
    return _loss(model, batches).item()


def test_without_growth_training_is_stuck() -> None:
    batches = _batches()
    model = _at_the_saddle(batches)
    start = _loss(model, batches).item()
    assert _trained(model, batches) > 0.999 * start


def test_the_eigen_score_sees_the_direction_and_is_significant() -> None:
    batches = _batches()
    score = fxgrow.analyze(_at_the_saddle(batches), F.mse_loss, batches)["0"]
    assert score.held_out is not None
    assert score.stderr is not None
    assert score.held_out[0] < -5 * score.stderr[0]
    assert score.eigenvectors is not None
    assert abs(score.eigenvectors[0, DIRECTION]) > 0.95


def test_noise_of_the_same_size_is_no_saddle() -> None:
    batches = _batches(even=False)
    score = fxgrow.analyze(_at_the_saddle(batches), F.mse_loss, batches)["0"]
    assert score.eigenvalues[0] < 0  # as everywhere: the least of several eigenvalues of a noisy matrix
    assert score.held_out is not None
    assert score.stderr is not None
    assert abs(score.held_out[0]) < 4 * score.stderr[0]


@pytest.mark.parametrize("operator", ["gated", "signed"])
def test_one_pseudo_layer_along_the_eigenvector_leaves_the_saddle(operator: str) -> None:
    batches = _batches()
    model = _at_the_saddle(batches)
    start = _loss(model, batches).item()
    scores = fxgrow.analyze(model, F.mse_loss, batches)
    grown = fxgrow.grow(model, scores, budget=20, operator=operator)
    assert _loss(grown, batches).item() == pytest.approx(start, rel=1e-5)
    assert _trained(copy.deepcopy(grown), batches) < 0.3 * start
