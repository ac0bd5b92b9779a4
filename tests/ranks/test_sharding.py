"""FSDP2 around a model that grows: it trains as one process does, and its sharded checkpoints load on any number of ranks."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fxgrow import Grower, trace
from fxgrow.testing import Draws
from fxgrow.training import Shard
from tests.ranks.conftest import OnRanks

STEPS = 5


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Network(nn.Module):
    """Two blocks, a parameter of the root, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x * self.scale))


def batches(step: int = 0) -> list[tuple[Tensor, Tensor]]:
    draws = Draws(20 + step)
    return [(draws.normal(96, 6), torch.arange(96) % 3) for _ in range(4)]


def run(wrap: Shard | None) -> Grower:
    model, draws = Network().double(), Draws(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * draws.normal(*parameter.shape))
    traced = trace(model, batches()[0][0])
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-2)
    return Grower(traced, F.cross_entropy, optimizer, wrap=wrap, budget=0.8, at=(1, 3), compile=False)


def train(grower: Grower, steps: range, part: slice) -> None:
    for step in steps:
        if grower.due(step):
            grower.grow(batches()[part])
        inputs, target = (torch.cat(values) for values in zip(*batches(step)[part], strict=True))
        grower.optimizer.zero_grad()
        F.cross_entropy(grower.model(inputs), target).backward()
        grower.optimizer.step()


def whole(grower: Grower) -> dict[str, Tensor]:
    state = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in grower.model.named_parameters()}
    return {name: value.detach().clone() for name, value in state.items()}


def sharded(rank: int) -> dict[str, Any]:
    grower, part = run(Shard()), slice(2 * rank, 2 * rank + 2)
    train(grower, range(STEPS), part)
    parameters = list(grower.model.parameters())
    moments = [state["exp_avg"] for state in grower.optimizer.state.values()]
    held = [id(p) for p in grower.optimizer.param_groups[0]["params"]] == [id(p) for p in parameters]
    return {
        "all sharded": all(isinstance(tensor, DTensor) for tensor in [*parameters, *moments]),
        "held": held and len(moments) == len(parameters),
        "events": len(grower.history),
        "whole": whole(grower),
    }


def test_two_ranks_train_a_sharded_model_as_one_process_trains_a_whole_one(on_ranks: OnRanks) -> None:
    alone = run(None)
    train(alone, range(STEPS), slice(None))
    for found in on_ranks(sharded):
        assert found["all sharded"]
        assert found["held"]
        assert found["events"] == 2
        compare(found["whole"], whole(alone))


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
