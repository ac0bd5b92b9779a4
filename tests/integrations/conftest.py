"""A tiny model that grows in a trainer, and its data."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow import trace
from fxgrow.testing import Draws
from fxgrow.training import Growing

#: two events in a run of four epochs
GROWTH: dict[str, Any] = {"at": (1, 2), "budget": 0.6, "max_samples": 256}


class Model(nn.Module):
    """Two layers, BatchNorm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.norm(self.fc1(x))))


def growing() -> Growing:
    model, draws = Model(), Draws(1, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * draws.normal(*parameter.shape))
    return Growing(trace(model, samples()[0][:4]))


def samples() -> tuple[Tensor, Tensor]:
    return Draws(2, torch.float32).normal(64, 6), torch.arange(64) % 3


def probe() -> list[tuple[Tensor, Tensor]]:
    draws = Draws(3, torch.float32)
    return [(draws.normal(128, 6), torch.arange(128) % 3) for _ in range(2)]


def loader() -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*samples()), batch_size=16)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have the same tensors under the same names, bit for bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
