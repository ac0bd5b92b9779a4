"""Batched training is the training of each network by itself, and a run that was cut off ends as if it had not been."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import BLOCKS, CONVOLUTION, IMAGES, MLP, STEM, TEXT, source, task
from study.arms import Arm, Event, depth
from study.networks import Architecture, Convolution, ConvolutionalStem, Network
from study.rewrites import AtOwnRate, HalfSteps, Site
from study.running import run
from study.schedules import Cycle
from study.snapshots import Snapshots, beginning
from study.state import State, initial
from study.tasks import batch
from study.training import DECAY, adamw, evaluate, gradient
from study.units import SilentUnits

MEMBERS = ((0.01, 0), (0.01, 1), (0.03, 1))


def _arm(architecture: Architecture, steps: int = 12) -> Arm:
    return Arm("grown", depth(BLOCKS[architecture], 1), (Cycle(steps),), (Event(steps // 2, HalfSteps()),))


def _single(network: Network, state: State, index: int) -> Network:
    values = {name: value[index] for name, value in state.values().items()}
    network.load_state_dict(values)
    return network


@pytest.mark.parametrize("architecture", [MLP, TEXT, IMAGES, CONVOLUTION, STEM])
def test_a_batch_of_networks_is_trained_as_each_by_itself(architecture: Architecture, tmp_path: Path) -> None:
    small, arm = task(architecture), _arm(architecture)
    together = run(small, arm, MEMBERS, Snapshots(tmp_path))
    for member, record in zip(MEMBERS, together, strict=True):
        (alone,) = run(small, arm, (member,), Snapshots(tmp_path))
        assert record["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert record["cost"] == alone["cost"]


@pytest.mark.parametrize("architecture", [MLP, TEXT, IMAGES, CONVOLUTION])
def test_a_batched_step_is_that_of_torch(architecture: Architecture) -> None:
    small = task(architecture)
    shapes = depth(small.block, 2)
    # in double: the bias of the keys has no gradient but rounding, which Adam would blow up
    state = initial(architecture, shapes, (3, 4)).map(torch.Tensor.double)
    network = Network(architecture, shapes)
    own = [_single(Network(architecture, shapes).double(), state, index) for index in range(2)]
    rates = (0.01, 0.02)
    optimizers = [
        torch.optim.AdamW(one.parameters(), lr=rate, weight_decay=DECAY) for one, rate in zip(own, rates, strict=True)
    ]
    for step in range(4):
        x, y = batch(source(architecture), small, (3, 4), step, 1.0)
        x = x if architecture.text else x.double()
        state = adamw(state, gradient(network)(state.values(), x, y)[0], torch.tensor(rates, dtype=torch.float64))
        for index, (one, optimizer) in enumerate(zip(own, optimizers, strict=True)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(one(x[index]).flatten(0, -2), y[index].flatten()).backward()
            optimizer.step()
    for index, one in enumerate(own):
        for name, parameter in one.named_parameters():
            torch.testing.assert_close(state.values()[name][index], parameter.detach(), rtol=1e-7, atol=1e-9)


def test_newcomers_have_the_rate_of_a_parameter_group_of_their_own() -> None:
    small, seeds = task(MLP), (3, 4)
    state = initial(MLP, depth(small.block, 1), seeds).map(torch.Tensor.double)
    trained = state.with_leaves({name: replace(leaf, steps=5) for name, leaf in state.leaves().items()})
    grown = AtOwnRate(SilentUnits(3), 4.0)(trained, Site(MLP, seeds, 1, lambda: pytest.fail("nothing is drawn")))
    new = [name for name, leaf in grown.leaves().items() if leaf.factor == 4.0]
    assert new == [name for name in grown.leaves() if name.startswith("blocks.1.")]
    network = _single(Network(MLP, grown.shapes).double(), grown, 0)
    groups = [
        {"params": [p for name, p in network.named_parameters() if (name in new) == own], "lr": rate}
        for own, rate in ((False, 0.01), (True, 0.04))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(5.0 if parameter in set(groups[0]["params"]) else 0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    for step in range(3):
        x, y = batch(source(MLP), small, seeds, step, 1.0)
        found = gradient(Network(MLP, grown.shapes))(grown.values(), x.double(), y)[0]
        grown = adamw(grown, found, torch.tensor([0.01, 0.01], dtype=torch.float64))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[0].double()), y[0]).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(grown.values()[name][0], parameter.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("size", [6, 7])
def test_a_convolution_is_that_of_torch(size: int) -> None:
    own, conv = Convolution(2, 3), torch.nn.Conv2d(2, 3, 3, stride=2, padding=1)
    with torch.no_grad():
        own.weight.copy_(conv.weight.permute(0, 2, 3, 1).flatten(1))
        own.bias.copy_(conv.bias)
    x = torch.linspace(-1, 1, 4 * size * size * 2).view(4, size, size, 2).sin()
    torch.testing.assert_close(own(x), conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_a_stem_sees_the_image_that_was_cut_into_patches() -> None:
    image = torch.arange(144.0).view(1, 12, 12)
    cut = image.unfold(1, 6, 6).unfold(2, 6, 6).reshape(1, 4, 36)
    seen: list[torch.Tensor] = []
    stem = ConvolutionalStem(tokens=4, features=36, width=8)
    stem.convolutions[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert stem(cut).shape == (1, 4, 8)
    assert torch.equal(seen[0][..., 0], image)


def test_losses_and_accuracies_are_those_of_each_network() -> None:
    state = initial(TEXT, depth(BLOCKS[TEXT], 1), (0, 1))
    data = source(TEXT)
    network = Network(TEXT, state.shapes)
    losses, hits = evaluate(network, state, data.test_x, data.test_y, chunk=15)
    for index in range(2):
        logits = _single(network, state, index)(data.test_x)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data.test_y.flatten())
        assert losses[index].item() == pytest.approx(expected.item(), rel=1e-5)
        assert hits[index].item() == pytest.approx((logits.argmax(-1) == data.test_y).float().mean().item())


def test_a_run_that_was_cut_off_ends_bit_equal(tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    def cut(step: int) -> None:
        if step == 9:
            raise CutOffError

    small, arm = task(TEXT), _arm(TEXT)
    whole = run(small, arm, MEMBERS, Snapshots(tmp_path / "whole"))
    with pytest.raises(CutOffError):
        run(small, arm, MEMBERS, Snapshots(tmp_path / "cut"), cut)
    seen: list[int] = []
    resumed = run(small, arm, MEMBERS, Snapshots(tmp_path / "cut"), seen.append)
    assert seen[0] == 7
    assert [row["loss"] for row in resumed] == [row["loss"] for row in whole]


def test_arms_with_the_same_beginning_share_it_and_others_do_not() -> None:
    small, one = task(MLP), _arm(MLP)
    other = Arm("other", one.start, one.cycles, (Event(6, HalfSteps(moments="copied")),))
    assert beginning(small, one, MEMBERS, 6) == beginning(small, other, MEMBERS, 6)
    assert beginning(small, one, MEMBERS, 7) != beginning(small, other, MEMBERS, 7)
    assert beginning(small, one, MEMBERS, 6) != beginning(small, one, MEMBERS[:2], 6)
    assert beginning(small, one, MEMBERS, 6) != beginning(small, _arm(MLP, 14), MEMBERS, 6)


def test_mini_batches_depend_on_the_seed_and_the_step_only() -> None:
    small, data = task(MLP), source(MLP)
    x, _ = batch(data, small, (5, 6), 3, 1.0)
    again, _ = batch(data, small, (6,), 3, 0.5)
    assert torch.equal(again[0], x[1, :4])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(batch(data, small, (5,), 4, 1.0)[0][0], x[0])


def test_cost_counts_the_parameters_of_each_stage(tmp_path: Path) -> None:
    (row,) = run(task(MLP), _arm(MLP), MEMBERS[:1], Snapshots(tmp_path))
    sizes = [initial(MLP, depth(BLOCKS[MLP], blocks), (0,)).parameters() for blocks in (1, 2)]
    assert row["cost"] == 6 * sum(sizes)
    assert row["parameters"] == sizes[1]
    assert np.isfinite(float(str(row["flops"])))
