"""FSDP2 around a model that grows: it trains as one process does, and its checkpoints load on any number of ranks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fxgrow import Grower, trace
from fxgrow.curvature import analyze
from fxgrow.errors import AnalysisError, PlanError, RankError
from fxgrow.testing import Draws
from fxgrow.training import Shard, ShardedCheckpoints
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


def share(rank: int) -> slice:
    return slice(2 * rank, 2 * rank + 2)


def sharded(rank: int, folder: str) -> dict[str, Any]:
    grower, checkpoints = run(Shard()), ShardedCheckpoints(folder, keep=2)
    for step in range(STEPS):
        train(grower, range(step, step + 1), share(rank))
        if step < STEPS - 1:
            checkpoints.save(grower, step=step)
    parameters = list(grower.model.parameters())
    moments = [state["exp_avg"] for state in grower.optimizer.state.values()]
    held = [id(p) for p in grower.optimizer.param_groups[0]["params"]] == [id(p) for p in parameters]
    return {
        "all sharded": all(isinstance(tensor, DTensor) for tensor in [*parameters, *moments]),
        "held": held and len(moments) == len(parameters),
        "events": len(grower.history),
        "whole": whole(grower),
    }


def resumed(rank: int, folder: str) -> dict[str, Tensor]:
    grower = run(Shard())
    last = ShardedCheckpoints(folder).load(grower)
    assert last is not None
    train(grower, range(last + 1, STEPS), share(rank))
    return whole(grower)


def dying(rank: int, folder: str) -> str:
    """Die on one rank in the middle of an event, when its loader is read."""
    grower, checkpoints = run(Shard()), ShardedCheckpoints(folder)
    train(grower, range(1), share(rank))
    checkpoints.save(grower, step=0)
    Path(folder, "step_7").mkdir(exist_ok=True)  # as a rank leaves it that dies while it writes

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        if rank == 1:
            os._exit(0)
        yield from batches()[share(rank)]

    with pytest.raises(RankError) as error:
        grower.grow(loader())
    Path(folder, "message").write_text(str(error.value))
    os._exit(0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_sharded_run_is_one_of_a_whole_model_and_resumes_on_two_ranks_and_on_one(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    alone = run(None)
    train(alone, range(STEPS), slice(None))
    for found in on_ranks(sharded, str(tmp_path / "run")):
        assert found["all sharded"]
        assert found["held"]
        assert found["events"] == 2
        compare(found["whole"], whole(alone))
    for found in on_ranks(resumed, str(tmp_path / "run")):
        compare(found, whole(alone))
    one, checkpoints = run(None), ShardedCheckpoints(tmp_path / "run")
    assert [path.name for path in checkpoints.paths()] == ["step_2", "step_3"]
    last = checkpoints.load(one)
    train(one, range(last + 1, STEPS), slice(None))
    compare(whole(one), whole(alone))


def test_an_average_of_the_weights_is_refused_beside_shards() -> None:
    traced = trace(Network().double(), batches()[0][0])
    optimizer, ema = torch.optim.SGD(traced.parameters()), torch.optim.swa_utils.AveragedModel(traced)
    with pytest.raises(PlanError, match="ema: it averages whole weights, and Shard holds none"):
        Grower(traced, F.cross_entropy, optimizer, ema=ema, wrap=Shard(), compile=False)


def test_a_rank_that_dies_in_an_event_leaves_a_checkpoint_and_a_message(on_ranks: OnRanks, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # no rank came to its end
        on_ranks(dying, str(tmp_path / "run"))
    assert "another rank is gone or did not come" in (tmp_path / "run" / "message").read_text()
    grower, checkpoints = run(None), ShardedCheckpoints(tmp_path / "run")
    with pytest.warns(UserWarning, match="step_7: it was not finished"):
        assert checkpoints.load(grower) == 0
    assert not grower.history


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


def by_hand(rank: int) -> str:
    traced = trace(Network().double(), batches()[0][0])
    fully_shard(traced, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(AnalysisError) as error:
        analyze(traced, F.cross_entropy, batches()[share(rank)])
    return str(error.value)


def test_a_model_that_was_sharded_by_hand_is_refused_in_one_line(on_ranks: OnRanks) -> None:
    for message in on_ranks(by_hand):
        assert "its parameters are sharded over the ranks; let a Grower shard it" in message
