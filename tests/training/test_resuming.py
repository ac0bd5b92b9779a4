"""A run that goes on from its state, in a Grower that was made anew, is the run that was not interrupted."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import probe, traced, train
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel

import fxgrow
from fxgrow.errors import PlanError, TraceError
from fxgrow.files.checksums import checksum_of_state
from fxgrow.training import Every, Grower, Plateau

Parts = dict[str, Any]


def plain(model: nn.Module) -> Parts:
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    return {"optimizer": optimizer, "scheduler": optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=20)}


def several(model: nn.Module) -> Parts:
    """Two optimizers, two averages, a scheduler of timm's."""
    matrices = [parameter for name, parameter in model.named_parameters() if parameter.dim() == 2 and "blocks" in name]
    others = [parameter for parameter in model.parameters() if all(parameter is not one for one in matrices)]
    optimizers = optim.SGD(matrices, lr=0.01, momentum=0.9), optim.Adam(others, lr=0.01, amsgrad=True)
    return {
        "optimizer": optimizers,
        "scheduler": [CosineLRScheduler(optimizers[0], 20), optim.lr_scheduler.StepLR(optimizers[1], 3)],
        "ema": [AveragedModel(model), ModelEmaV3(model, decay=0.9)],
        "new_warmup": 5,
    }


def passed_on(model: nn.Module) -> Parts:
    return {"optimizer": create_optimizer_v2(model, "lookahead_adamw", lr=0.01)}


def make(parts: Callable[[nn.Module], Parts]) -> Grower:
    model = traced()
    made = parts(model)
    options = {"score": "random", "compile": False, "at": Every(3, after=2, events=2), **made}
    grower = Grower(model, F.cross_entropy, options.pop("optimizer"), **options)
    torch.manual_seed(3)
    return grower


def go_on(grower: Grower, until: int) -> None:
    """Train as a user's loop does, from where the run is."""
    optimizers = grower.optimizer if isinstance(grower.optimizer, tuple) else (grower.optimizer,)
    schedulers = [part for name, part in grower._parts().items() if name.startswith("scheduler")]
    averages = grower.model.averages

    def after(step: int, _: Any) -> None:
        for scheduler in schedulers:
            scheduler.step(step + 1) if isinstance(scheduler, CosineLRScheduler) else scheduler.step()
        for average in averages:
            getattr(average, "update_parameters", getattr(average, "update", None))(grower.model)

    for step in range(grower.position.get("step", 0), until):
        if grower.due(step):
            grower.grow(probe())
        train(grower.model, optimizers, range(step, step + 1), after=after)
        grower.position = {"step": step + 1}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def weights(grower: Grower) -> str:
    return checksum_of_state([grower.model.state_dict(), *(average.state_dict() for average in grower.model.averages)])


@pytest.mark.parametrize("stop", [1, 2, 4, 7])
@pytest.mark.parametrize("parts", [plain, several, passed_on])
def test_it_goes_on_bit_for_bit(parts: Callable[[nn.Module], Parts], stop: int) -> None:
    """Whether it stops before, at, between or after its two events."""
    whole, stopped = make(parts), make(parts)
    go_on(whole, 9)
    torch.manual_seed(3)
    go_on(stopped, stop)
    state = through_a_file(stopped.state_dict())
    resumed = make(parts)
    torch.manual_seed(99)
    resumed.load_state_dict(state)
    go_on(resumed, 9)
    assert len(whole.history) == 2
    assert resumed.history == whole.history
    assert (resumed.remaining, resumed.steps) == (whole.remaining, whole.steps)
    assert weights(resumed) == weights(whole)


def test_the_random_numbers_of_torch_numpy_and_python_go_on() -> None:
    import random

    grower = make(plain)
    np.random.seed(5)
    random.seed(5)
    state = through_a_file(grower.state_dict())
    drawn = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    grower.load_state_dict(state)
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == drawn


def test_a_grower_made_for_a_loaded_model_has_what_the_run_had_left() -> None:
    grower = make(plain)
    grower.grow(probe())
    again = Grower(grower.graph_module, F.cross_entropy, grower.optimizer, at=(2, 5), compile=False)
    assert again.remaining == grower.remaining
    assert not again.due(4)
    assert again.due(5)


def test_a_run_goes_back_to_a_state_before_an_event() -> None:
    grower = make(several)
    go_on(grower, 2)
    earlier, before = copy.deepcopy(grower.state_dict()), weights(grower)
    go_on(grower, 4)
    assert len(grower.history) == 1
    grower.load_state_dict(earlier)
    assert weights(grower) == before
    assert grower.history == ()
    assert grower.due(2)
    go_on(grower, 6)
    assert len(grower.history) == 2


def test_a_loaded_model_alone_takes_the_optimizer_and_the_averages_along() -> None:
    """As a trainer does, which loads the model first and then its optimizers, by their own means."""
    whole, fresh = make(several), make(several)
    go_on(whole, 6)
    fresh.model.load_state_dict(whole.model.state_dict())
    for made, known in zip(fresh.optimizer, whole.optimizer, strict=True):
        made.load_state_dict(known.state_dict())
        assert [p.shape for g in made.param_groups for p in g["params"]] == [
            p.shape for g in known.param_groups for p in g["params"]
        ]
    for average in fresh.model.averages:
        assert [p.shape for p in average.parameters()] == [p.shape for p in fresh.model.parameters()]
    assert fresh.remaining == whole.remaining


@pytest.mark.parametrize("change", ["groups", "scheduler", "optimizers", "base"])
def test_a_state_of_another_run_is_refused(change: str) -> None:
    state = make(plain).state_dict()
    model = traced() if change != "base" else fxgrow.trace(nn.Linear(6, 3).double(), torch.ones(2, 6).double())
    optimizer: Any = optim.AdamW(model.parameters())
    options: Parts = {"scheduler": optim.lr_scheduler.StepLR(optimizer, 2)}
    match change:
        case "groups":
            half = list(model.parameters())
            optimizer = optim.AdamW([{"params": half[:3]}, {"params": half[3:]}])
        case "scheduler":
            options = {}
        case "optimizers":
            optimizer = (optimizer, optim.SGD([nn.Parameter(torch.ones(1))]))
    grower = Grower(model, F.cross_entropy, optimizer, compile=False, **options)
    with pytest.raises(TraceError if change == "base" else PlanError):
        grower.load_state_dict(state)


def test_a_plateau_is_watched_on_after_resuming() -> None:
    schedules = Plateau(patience=3), Plateau(patience=3)
    metrics = [1.0, 0.5, 0.5, 0.6, 0.5]
    seen = []
    for number, metric in enumerate(metrics):
        watched = schedules[number > 2]
        if number == 3:
            watched.load_state_dict(schedules[0].state_dict())
        seen.append(watched.due(number, 0, metric, float))
    assert seen == [False, False, False, False, True]
