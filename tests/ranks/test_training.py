"""Two ranks train one model through growth, and go on from what they saved, on another number of ranks too."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow import Grower, trace
from fxgrow.errors import RankError
from fxgrow.execution.ranks import Ranks
from fxgrow.record.digest import digest
from fxgrow.testing import Draws
from tests.ranks.conftest import OnRanks

STEPS = 6


def batches(step: int = 0) -> list[tuple[Tensor, Tensor]]:
    draws = Draws(10 + step)
    return [(draws.normal(64, 4), torch.arange(64) % 3) for _ in range(4)]


def run(wrap: Callable[[nn.Module], nn.Module] | None, **options: Any) -> Grower:
    made, draws = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)), Draws(5)
    made.double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * draws.normal(*parameter.shape))
    traced = trace(made, batches()[0][0])
    optimizer = torch.optim.SGD(traced.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return Grower(traced, F.cross_entropy, optimizer, wrap=wrap, scheduler=scheduler, budget=1.0, at=(1, 3),
                  compile=False, **options)  # fmt: skip


def train(grower: Grower, steps: range, part: slice) -> None:
    for step in steps:
        if grower.due(step):
            grower.grow(batches()[part])
        inputs, target = (torch.cat(values) for values in zip(*batches(step)[part], strict=True))
        grower.optimizer.zero_grad()
        F.cross_entropy(grower.model(inputs), target).backward()
        grower.optimizer.step()
        grower._schedulers[0].step()


def share(rank: int) -> slice:
    return slice(2 * rank, 2 * rank + 2)


def on_one_rank(rank: int, saved: dict[str, Any] | None) -> dict[str, Any]:
    grower = run(DistributedDataParallel)
    if saved is not None:
        grower.load_state_dict(copy.deepcopy(saved))  # processes share the memory of what they are sent
    train(grower, range(4, STEPS) if saved else range(4), share(rank))
    return {"state": copy.deepcopy(grower.state_dict()), "digest": digest(grower.graph_module)}


def wrapped_by_somebody_else(rank: int) -> tuple[dict[str, Any], str]:
    grower = run(None)
    outer, late = DistributedDataParallel(grower.model), DistributedDataParallel(grower.model)
    for step in range(4):
        if grower.due(step):
            grower.grow(batches()[share(rank)])
        inputs, target = (torch.cat(values) for values in zip(*batches(step)[share(rank)], strict=True))
        grower.optimizer.zero_grad()
        F.cross_entropy(outer(inputs), target).backward()
        grower.optimizer.step()
        grower._schedulers[0].step()
    with pytest.raises(RankError) as error:
        late(batches()[0][0])
    return {"state": copy.deepcopy(grower.state_dict())}, str(error.value)


def compare(found: dict[str, Any], expected: dict[str, Tensor]) -> None:
    assert found["state"]["model"].keys() == expected.keys()
    for name, value in expected.items():
        if name != "_extra_state":
            torch.testing.assert_close(found["state"]["model"][name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_two_ranks_train_as_one_through_two_events_and_resume_on_two_and_on_one(on_ranks: OnRanks) -> None:
    alone = run(None)
    train(alone, range(4), slice(None))
    first, second = on_ranks(on_one_rank, None)
    assert len(alone.history) == 2
    assert first["digest"] == second["digest"] == digest(alone.graph_module)
    compare(first, alone.model.state_dict())
    compare(second, first["state"]["model"])
    one = run(None)
    one.load_state_dict(copy.deepcopy(first["state"]))  # an optimizer goes on in the tensors that it is given
    for grower in (alone, one):
        train(grower, range(4, STEPS), slice(None))
    compare({"state": one.state_dict()}, alone.model.state_dict())
    for resumed in on_ranks(on_one_rank, first["state"]):
        compare(resumed, alone.model.state_dict())


def test_a_wrapper_that_somebody_put_around_follows_and_one_that_could_not_is_an_error(on_ranks: OnRanks) -> None:
    alone = run(None)
    train(alone, range(4), slice(None))
    for found, message in on_ranks(wrapped_by_somebody_else):
        compare(found, alone.model.state_dict())
        assert "DistributedDataParallel does not know it and would let it drift; call fxgrow.training.renew" in message


def test_one_process_is_a_run_of_one_rank() -> None:
    assert Ranks().count == 1
