"""Residual blocks become two half-steps, or a step and a silent one."""

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import PassError, VerificationError
from fxgrow.passes import parse
from fxgrow.passes.deepen import Deepen
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass, sample_models
from tests.passes.deep_models import CASES, Squeezed, make


@pytest.mark.parametrize("options", CASES)
def test_a_block_becomes_two_half_steps_in_each_of_its_branches(options: dict[str, str]) -> None:
    model, traced, x = make(**options)
    before = traced(x)
    deeper = check_pass(Deepen(("blocks.0",)), traced).graph_module
    h = model.start(x)
    for _ in range(2):
        h = model.blocks[0].steps(h, 0.5)
    expected = model.head(model.blocks[1](h).mean(1))
    torch.testing.assert_close(deeper(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(traced(x), before)


@pytest.mark.parametrize("options", CASES[:3])
def test_a_silent_copy_keeps_the_function_and_has_a_gradient_at_once(options: dict[str, str]) -> None:
    _, traced, x = make(**options)
    deeper = check_pass(Deepen(("blocks.0", "blocks.1"), "zero"), traced).graph_module
    assert fxgrow.verify(traced, deeper, x).largest_absolute < 1e-10
    assert {name.split(".")[1] for name in fxgrow.new_parameters(deeper)} == {"2", "3"}
    deeper(x).square().sum().backward()
    ends = {"linear": "fc2.weight", "scale": "scale2", "norm": "end2.weight"}
    assert deeper.get_parameter(f"blocks.2.{ends[options['end']]}").grad.abs().sum() > 0


def test_half_says_that_it_changes_the_function_and_verify_by_how_much() -> None:
    _, traced, _ = make()
    assert not Deepen(("blocks.0",)).preserves_function
    assert Deepen(("blocks.0",), "zero").preserves_function
    with pytest.raises(VerificationError, match="it differs by"):
        fxgrow.verify(traced, fxgrow.deepen(traced, "blocks.0"))


def test_both_halves_begin_with_fresh_moments_and_others_keep_theirs() -> None:
    _, traced, x = make()
    plain, decayed = ([p for p in traced.parameters() if (p.dim() > 1) is matrix] for matrix in (False, True))
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])
    traced(x).square().sum().backward()
    optimizer.step()
    deeper = fxgrow.deepen(traced, "blocks.0", optimizer=optimizer)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    used = {id(p) for name, p in deeper.named_parameters() if "scale" not in name and ".end" not in name}
    assert used <= {id(parameter) for parameter in held}
    assert len({id(parameter) for parameter in held}) == len(held)
    assert all((p.dim() > 1) is (index == 0) for index, g in enumerate(optimizer.param_groups) for p in g["params"])
    with_state = {name for name, parameter in deeper.named_parameters() if optimizer.state.get(parameter)}
    assert not any("blocks.0." in name or "blocks.2." in name for name in with_state)
    assert {"head.weight", "blocks.1.fc1.weight", "start.weight"} <= with_state


def test_without_names_all_blocks_of_a_kind_become_two() -> None:
    _, traced, x = make()
    deeper = fxgrow.deepen(traced)
    assert record_of(deeper).edits == ('deepen{blocks=["blocks.0","blocks.1"] how="half"}',)
    assert [growth.path for growth in record_of(deeper).history[0].growths] == ["blocks.2", "blocks.3"]
    assert digest(parse(record_of(deeper).edits[0])(traced).graph_module) == digest(deeper)
    assert deeper(x).shape == traced(x).shape


def test_a_half_step_can_be_halved_again() -> None:
    model, traced, x = make()
    twice = fxgrow.deepen(fxgrow.deepen(traced, "blocks.0"), ("blocks.0", "blocks.2"))
    h = model.start(x)
    for _ in range(4):
        h = model.blocks[0].steps(h, 0.25)
    expected = model.head(model.blocks[1](h).mean(1))
    torch.testing.assert_close(twice(x), expected, rtol=1e-12, atol=1e-12)


def test_a_silent_copy_can_be_undone_and_a_half_step_cannot() -> None:
    _, traced, _ = make()
    assert digest(fxgrow.undo(fxgrow.deepen(traced, "blocks.0", how="zero"))) == digest(traced)
    with pytest.raises(PassError, match="it changed what was there, and cannot be undone"):
        fxgrow.undo(fxgrow.deepen(traced, "blocks.0"))


def test_statistics_of_batch_norm_are_copied_and_its_scale_is_halved() -> None:
    model, inputs = sample_models()["resnet"].make(dtype=torch.float64)
    traced = fxgrow.trace(model, inputs)
    traced(*inputs)
    deeper = check_pass(Deepen(("blocks.0",)), traced).graph_module
    norm, halved = traced.get_submodule("blocks.0.bn2"), deeper.get_submodule("blocks.0.bn2")
    copied = deeper.get_submodule("blocks.2.bn2")
    assert torch.equal(halved.weight, norm.weight / 2)
    assert torch.equal(copied.weight, norm.weight / 2)
    assert torch.equal(copied.running_mean, norm.running_mean)
    assert copied.running_mean is not norm.running_mean


def test_a_gated_branch_has_a_silent_copy() -> None:
    traced = fxgrow.trace(nn.Sequential(Squeezed(), Squeezed()).double(), torch.zeros(2, 4, dtype=torch.float64))
    check_pass(Deepen(("0",), "zero"), traced)
