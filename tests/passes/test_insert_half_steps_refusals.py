"""Units that are no summands of a branch get no half-steps, and are refused with the reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from tests.passes.unit_models import filled, make


class Ends(nn.Module):
    """Branches whose units cannot be halved."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.fc1, self.fc2, self.again = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        hidden = F.gelu(self.fc1(x))
        if self.kind == "norm":
            return self.head(x + F.layer_norm(self.fc2(hidden), (4,)))
        if self.kind == "two":
            return self.head(x + self.fc2(hidden) * self.again(hidden))
        if self.kind == "curved":
            return self.head(x + torch.tanh(self.fc2(hidden)))
        if self.kind == "normalised":
            return self.head(x + self.fc2(F.layer_norm(hidden, (6,))))
        if self.kind == "twice":
            return self.head(x + self.fc2(F.gelu(self.fc1(x + self.fc2(hidden)))))
        return self.head(self.fc2(hidden))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("norm", "layer_norm stands between fc2, which reads its units, and the sum"),
        ("two", "its units are read by fc2 and again"),
        ("curved", "tanh stands between fc2"),
        ("normalised", "its width cannot change: layer_norm reads it"),
        ("twice", "it is called 2 times"),
        ("none", "it lies in no residual branch"),
    ],
)
def test_where_a_unit_is_not_a_summand_of_the_branch_it_is_refused_with_the_reason(kind: str, reason: str) -> None:
    traced = fxgrow.trace(filled(Ends(kind).double(), np.random.default_rng(0)), torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(PassError, match=reason):
        InsertHalfSteps({"fc1": (0,)})(traced)


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ({"blocks.0.fc1": (12,)}, "it has 12 units; choose units from 0 to 11"),
        ({"blocks.0.qkv": (2,)}, "it has 2 units"),
        ({"blocks.0.fc1": ()}, "it has 12 units"),
        ({"blocks.0.fc1": (3, 1)}, "not ascending"),
        ({"blocks.0.fc3": (0,)}, "no site of this name"),
        ({"blocks.0.fc2": (0,)}, "its width cannot change"),
        ({"head": (0,)}, "it lies in no residual branch"),
    ],
)
def test_units_that_are_not_there_are_refused(units: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(PassError, match=reason):
        InsertHalfSteps(units)(make()[1])


def test_a_pseudo_layer_is_no_branch_of_units() -> None:
    _, traced, _ = make()
    scores = fxgrow.testing.random_scores(traced)
    grown = fxgrow.grow(traced, scores, budget=200, include=["blocks.0.fc1"])
    with pytest.raises(PassError, match="pseudo-layer"):
        InsertHalfSteps({"blocks.0.fc1_pseudo_0.fc1": (0,)})(grown)
    with pytest.raises(PassError, match="a pseudo-layer grew on its rows"):
        InsertHalfSteps({"blocks.0.fc1": (0,)})(grown)
