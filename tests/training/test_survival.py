"""What a real loop holds goes on across a growth event."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from small_runs import batch, probe, traced, train
from timm.optim import create_optimizer_v2
from torch import Tensor, nn, optim
from torch.utils.checkpoint import checkpoint

import fxgrow
from fxgrow.testing import Draws
from fxgrow.training import Grower


def make(model: nn.Module, optimizer: Any, **options: Any) -> Grower:
    return Grower(model, F.cross_entropy, optimizer, at=(0, 1), **{"score": "random", "compile": False, **options})


def test_layer_decay_and_weight_decay_of_timm_hold_for_new_parameters() -> None:
    """The optimizer is made from the model itself, which knows its layers; the graph shares its parameters."""
    size = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 12, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", **size)
    images = Draws(dtype=torch.float32).normal(8, 3, 16, 16)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    grower = make(fxgrow.trace(model, images), optimizer)
    groups = len(optimizer.param_groups)
    for _ in range(2):
        F.cross_entropy(grower.model(images), torch.arange(8) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        grower.grow([(images, torch.arange(8) % 3)])
    assert len(optimizer.param_groups) == groups
    home = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(home) == len(list(grower.model.parameters()))
    for growth in grower.history[-1].growths:
        site = home[id(grower.graph_module.get_parameter(f"{growth.site}.weight"))]
        for name, parameter in grower.graph_module.get_submodule(growth.path).named_parameters():
            group = home[id(parameter)]
            assert group["lr_scale"] == site["lr_scale"], name
            assert group["weight_decay"] == (0.05 if parameter.dim() > 1 else 0.0), name


def test_a_gradient_scaler_goes_on() -> None:
    model = traced(torch.float32)
    optimizer, scaler = (
        optim.SGD(model.parameters(), 0.01, momentum=0.9),
        torch.amp.GradScaler("cpu", growth_interval=2),
    )
    grower = make(model, optimizer, also={"scaler": scaler})
    for step in range(4):
        if step == 2:
            grower.grow(probe(torch.float32))
        inputs, labels = batch(step, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(grower.model(inputs), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(grower.model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert grower.steps == 4
    assert grower.state_dict()["parts"]["scaler"]["scale"] == scaler.get_scale()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in grower.model.parameters()
    )


def test_gradients_that_are_accumulated_stay_across_an_event() -> None:
    model = traced()
    grower = make(model, optim.AdamW(model.parameters()))
    alone = traced()
    for step, (growing, plain) in enumerate([(grower.model, alone)] * 2):
        for one in (growing, plain):
            torch.manual_seed(step)
            F.cross_entropy(one(batch(step)[0]), batch(step)[1]).backward()
        if step == 0:
            grower.grow(probe())
    kept = dict(grower.model.named_parameters())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(kept[name].grad, parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_grow_in_their_dtype(dtype: torch.dtype) -> None:
    model = traced(torch.float32).to(dtype)
    grower = make(model, optim.SGD(model.parameters(), 0.01))
    grower.grow([(inputs.to(dtype), labels) for inputs, labels in probe()])
    assert {parameter.dtype for parameter in grower.model.parameters()} == {dtype}


def test_convolutions_that_are_added_to_a_model_in_channels_last_are_so_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model = model.to(memory_format=torch.channels_last)
    images = Draws(dtype=torch.float32).normal(8, 3, 8, 8).to(memory_format=torch.channels_last)
    graph = fxgrow.trace(model, images)
    grower = make(graph, optim.SGD(graph.parameters(), 0.01), operator="branch")
    grower.grow([(images, torch.arange(8) % 3)])
    added = [p for p in fxgrow.new_parameters(graph).values() if p.dim() == 4]
    assert added
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in added)
    assert not all(p.is_contiguous() for p in added)


def test_under_activation_checkpointing_a_grown_model_has_the_same_gradients() -> None:
    model = traced()
    grower = make(model, optim.SGD(model.parameters(), 0.01))
    grower.grow(probe())
    grower.model.eval()
    inputs, labels = batch(0)
    gradients = []
    for compute in (grower.model, lambda x: checkpoint(grower.model, x, use_reentrant=False)):
        loss = F.cross_entropy(compute(inputs), labels)
        gradients.append(torch.autograd.grad(loss, list(grower.model.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_soft_targets_of_a_mixup_are_targets() -> None:
    def mixed(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hot = F.one_hot(labels, 3).double()
        return 0.7 * inputs + 0.3 * inputs.flip(0), 0.7 * hot + 0.3 * hot.flip(0)

    model = traced()
    grower = make(model, optim.SGD(model.parameters(), 0.01), score="eigen")
    report = grower.grow([mixed(*pair) for pair in probe()])
    assert report.scores.samples == 32
    train(grower.model, (grower.optimizer,), range(2))


def test_state_of_old_parameters_is_the_same_object_and_value() -> None:
    model = traced()
    optimizer = optim.Adam(model.parameters(), amsgrad=True)
    grower = make(model, optimizer)
    train(grower.model, (optimizer,), range(3))
    before = {parameter: {key: (id(v), v.clone()) for key, v in s.items()} for parameter, s in optimizer.state.items()}
    grower.grow(probe())
    for parameter, state in before.items():
        for key, (identity, value) in state.items():
            assert id(optimizer.state[parameter][key]) == identity
            assert torch.equal(optimizer.state[parameter][key], value)
