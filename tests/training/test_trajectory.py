"""Grown with the new parameters frozen, training is what it would have been: with every optimizer and scheduler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import probe, traced, train
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from torch import Tensor, nn, optim
from torch.optim import Optimizer, lr_scheduler

from fxgrow.training import Grower

Make = Callable[[nn.Module], tuple[Optimizer, ...]]


def simple(kind: Callable[..., Optimizer], **options: Any) -> Make:
    return lambda model: (kind(model.parameters(), **options),)


def of_timm(name: str, **options: Any) -> Make:
    return lambda model: (create_optimizer_v2(model, name, lr=1e-3, weight_decay=0.05, **options),)


def two_groups(model: nn.Module) -> tuple[Optimizer, ...]:
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    return (optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "lr": 1e-2}], lr=1e-3),)


def muon_beside_adamw(model: nn.Module) -> tuple[Optimizer, ...]:
    inner = [parameter for name, parameter in model.named_parameters() if parameter.dim() == 2 and "blocks" in name]
    others = [parameter for parameter in model.parameters() if all(parameter is not one for one in inner)]
    return optim.Muon(inner, lr=1e-3), optim.AdamW(others, lr=1e-3)


OPTIMIZERS: dict[str, Make] = {
    "adadelta": simple(optim.Adadelta, lr=0.5),
    "adafactor": simple(optim.Adafactor, lr=1e-2),
    "adagrad": simple(optim.Adagrad, lr=1e-2, initial_accumulator_value=0.1),
    "adam amsgrad": simple(optim.Adam, lr=1e-3, amsgrad=True),
    "adamax": simple(optim.Adamax, lr=1e-3),
    "adamw fused": simple(optim.AdamW, lr=1e-3, fused=True),
    "adamw foreach": simple(optim.AdamW, lr=1e-3, foreach=True),
    "adamw two groups": two_groups,
    "asgd": simple(optim.ASGD, lr=1e-2, t0=3),
    "muon beside adamw": muon_beside_adamw,
    "nadam": simple(optim.NAdam, lr=1e-3),
    "radam": simple(optim.RAdam, lr=1e-3),
    "rmsprop": simple(optim.RMSprop, lr=1e-3, momentum=0.9, centered=True),
    "rprop": simple(optim.Rprop, lr=1e-3),
    "sgd": simple(optim.SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd fused": simple(optim.SGD, lr=1e-2, momentum=0.9, fused=True),
    **{
        f"timm {name}": of_timm(name)
        for name in ("adamw", "adamp", "adan", "adopt", "laprop", "lion", "madgrad", "nadamw", "novograd", "sgdp")
    },
    "timm lookahead": of_timm("lookahead_adamw"),
    "timm rmsproptf": of_timm("rmsproptf"),
    "timm lamb": of_timm("lamb", max_grad_norm=None),
    "timm lars": of_timm("lars"),
}
TOTAL = 55
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 7),
    "multi step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [4, 20]),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=TOTAL + 1),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL),
    "warm restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-2, 5, cycle_momentum=False),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=2),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.95)], [4]
    ),
    "timm cosine": lambda optimizer: CosineLRScheduler(optimizer, TOTAL, warmup_t=8, warmup_lr_init=1e-5),
    "timm step": lambda optimizer: StepLRScheduler(optimizer, 6, 0.5),
}


def stepped(scheduler: Any, step: int, loss: Tensor) -> None:
    """Step a scheduler as its library asks."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(float(loss))
    elif isinstance(scheduler, lr_scheduler.LRScheduler):
        scheduler.step()
    else:
        scheduler.step(step + 1, float(loss))


def run(make: Make, schedule: Callable[[Optimizer], Any], *, grows: bool, **options: Any) -> dict[str, Tensor]:
    """Train 5 steps, grow or not, train 50 more; return what the ungrown model has by then."""
    model = traced()
    names, optimizers = list(model.state_dict()), make(model)
    scheduler = schedule(optimizers[0])
    options = {"new_lr_factor": 0, "score": "random", "compile": False, **options}
    grower = Grower(model, F.cross_entropy, optimizers, scheduler=scheduler, at=(0,), **options)
    torch.manual_seed(1)
    train(grower.model, optimizers, range(5), after=lambda step, loss: stepped(scheduler, step, loss))
    if grows:
        grower.grow(probe())
    train(grower.model, optimizers, range(5, TOTAL), after=lambda step, loss: stepped(scheduler, step, loss))
    state = model.state_dict()
    assert (len(state) > len(names)) == grows
    return {name: state[name] for name in names}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_optimizer(name: str) -> None:
    grown, alone = (run(OPTIMIZERS[name], SCHEDULERS["cosine"], grows=grows) for grows in (True, False))
    assert_same(grown, alone)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_with_every_scheduler(name: str) -> None:
    grown, alone = (run(two_groups, SCHEDULERS[name], grows=grows) for grows in (True, False))
    assert_same(grown, alone)


def test_a_list_of_all_optimizers_of_torch() -> None:
    apart = {"LBFGS", "SparseAdam"}  # the first begins a new history, the second takes sparse gradients only
    known = {kind.__name__ for kind in vars(optim).values() if isinstance(kind, type) and issubclass(kind, Optimizer)}
    model = traced()
    made = {type(one).__name__ for name, make in OPTIMIZERS.items() if "timm" not in name for one in make(model)}
    assert known - apart - {"Optimizer"} == made


@pytest.mark.parametrize(("factor", "warmup", "share"), [(0.25, 0, 0.25), (1.0, 4, 0.25), (0.5, 2, 0.25)])
def test_new_parameters_make_steps_of_their_own_length(factor: float, warmup: int, share: float) -> None:
    """The first step after growth is `share` of a whole one, for matrices and vectors."""
    moved = {}
    for options in ({}, {"new_lr_factor": factor, "new_warmup": warmup}):
        model = traced()
        optimizers = two_groups(model)
        grower = Grower(model, F.cross_entropy, optimizers, at=(0,), score="random", compile=False, **options)
        grower.grow(probe())
        new = grower.history[-1].growths[0].path
        before = {name: value.clone() for name, value in model.get_submodule(new).named_parameters()}
        torch.manual_seed(1)
        train(grower.model, optimizers, range(1))
        after = dict(model.get_submodule(new).named_parameters())
        moved[bool(options)] = {name: after[name].detach() - value for name, value in before.items()}
    for name, whole in moved[False].items():
        torch.testing.assert_close(moved[True][name], share * whole, rtol=1e-9, atol=1e-12)


def test_after_its_warm_up_a_new_parameter_is_one_of_its_group() -> None:
    model = traced()
    optimizers = two_groups(model)
    grower = Grower(model, F.cross_entropy, optimizers, at=(0,), score="random", compile=False, new_warmup=3)
    grower.grow(probe())
    assert grower.state_dict()["young"]
    train(grower.model, optimizers, range(3))
    assert not grower.state_dict()["young"]
    assert grower.steps == 3


def test_lbfgs_begins_a_new_history_and_goes_on() -> None:
    model = traced()
    optimizers = (optim.LBFGS(model.parameters(), lr=0.1, max_iter=4),)
    grower = Grower(model, F.cross_entropy, optimizers, at=(0,), score="random", compile=False)
    train(grower.model, optimizers, range(3))
    grower.grow(probe())
    train(grower.model, optimizers, range(3))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
