"""Batched training is the training of each network by itself, and a run that was cut off ends as if it had not been."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import BLOCKS, CONVOLUTION, IMAGES, MLP, TEXT, source, task
from study.arms import Arm, Event, depth
from study.networks import Architecture, Network
from study.rewrites import HalfSteps
from study.running import run
from study.schedules import Cycle
from study.snapshots import Snapshots, beginning
from study.state import State, initial
from study.tasks import batch
from study.training import DECAY, adamw, evaluate, gradient

MEMBERS = ((0.01, 0), (0.01, 1), (0.03, 1))


def _arm(architecture: Architecture, steps: int = 12) -> Arm:
    return Arm("grown", depth(BLOCKS[architecture], 1), (Cycle(steps),), (Event(steps // 2, HalfSteps()),))


def _single(network: Network, state: State, index: int) -> Network:
    values = {name: value[index] for name, value in state.values().items()}
    network.load_state_dict(values)
    return network


@pytest.mark.parametrize("architecture", [MLP, TEXT, IMAGES, CONVOLUTION])
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
