"""The small model of `tests.training`, which ranks train through growth, each on its share of the data."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow import Grower
from fxgrow.testing import Draws
from tests.training import small_runs

Wrap = Callable[[nn.Module], nn.Module]

STEPS, EVENTS = 6, (1, 3)


def traced() -> torch.fx.GraphModule:
    """Return a model that does not depend on how samples are shared out."""
    return small_runs.traced(plain=True)


def batches(step: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return the data of a step, in four parts."""
    draws = Draws(20 + step)
    return [(draws.normal(96, 6), torch.arange(96) % 3) for _ in range(4)]


def share(rank: int) -> slice:
    """Return which parts a rank of two reads."""
    return slice(2 * rank, 2 * rank + 2)


def run(wrap: Wrap | None = None) -> Grower:
    """Return a run at its start."""
    model = traced()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return Grower(model, F.cross_entropy, optimizer, wrap=wrap, scheduler=scheduler, budget=0.8, at=EVENTS,
                  compile=False)  # fmt: skip


def train(grower: Grower, steps: range, part: slice = slice(None), *, called: nn.Module | None = None) -> None:
    """Train for some steps on a share of the data; `called` is what the loop calls, where it is not the model."""

    def data(step: int) -> tuple[Tensor, Tensor]:
        inputs, target = (torch.cat(values) for values in zip(*batches(step)[part], strict=True))
        return inputs, target

    for step in steps:
        if grower.due(step):
            grower.grow(batches()[part])
        small_runs.train(called or grower.model, (grower.optimizer,), range(step, step + 1), data=data)
        grower._schedulers[0].step()


def whole(grower: Grower) -> dict[str, Tensor]:
    """Return the weights of a run, of all shards together; all ranks call it."""
    with grower.model.whole():
        return {name: value.detach().clone() for name, value in grower.graph_module.named_parameters()}


def compare(found: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """Check that two runs have the same weights, but for rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
