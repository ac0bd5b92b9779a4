"""Scores of blocks and of kinds are what they say; trials are the beginning of the very runs that they judge."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import IMAGES, MLP, TEXT, source, task
from study import block_scores, kind_scores, places
from study.arms import Arm, Event, depth, evenly
from study.groups import Group
from study.networks import Architecture, Network
from study.placing import all_but_one, even
from study.records import Records
from study.rewrites import HalfSteps, Site
from study.running import reach, run
from study.snapshots import Snapshots
from study.state import Leaf, State
from study.tasks import Members, Task, batch
from study.units import HalfShare, scored
from torch.func import functional_call

MEMBERS = ((0.01, 1000), (0.01, 1001))
SEEDS = (1000, 1001)


def _group(architecture: Architecture) -> Group:
    small = task(architecture, steps=8)
    return Group("places", small, even(small), tuple(all_but_one(small)), fresh=2, places="blocks")


def _kinds(architecture: Architecture) -> Group:
    small = task(architecture, steps=8)
    ways = {"both": HalfShare(4, heads=1), "attention": HalfShare(0, heads=2), "mlp": HalfShare(8)}
    start, cycles = depth(small.block, 4), evenly(small.steps, 1)
    both, *alone = (Arm(name, start, cycles, (Event(4, way),)) for name, way in ways.items())
    return Group("kinds", small, both, tuple(alone), fresh=2, places="kinds")


def _site(small: Task) -> Site:
    drawn = source(small.architecture)
    return Site(small.architecture, SEEDS, 4, lambda: batch(drawn, replace(small, batch=64), SEEDS, -4, 1.0))


def test_a_new_score_is_measured_without_those_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, records = _kinds(IMAGES), Records(tmp_path)
    monkeypatch.setattr(places, "GROUPS", (group,))
    monkeypatch.setattr(places, "tuned", lambda *_: 0.01)
    monkeypatch.setattr(block_scores, "TRIALS", (1,))
    for names in ((), ("gradient",)):
        monkeypatch.setattr(kind_scores, "SUMMED", names)
        places.run(["small"], records, Snapshots(tmp_path / "snapshots"))
    found = [row["score"] for row in places.read(records, group)]
    assert found.count("gradient") == found.count("trial of 1 steps") == found.count("the MLPs") == 2


@pytest.mark.parametrize(("group", "count"), [(_group(TEXT), 4), (_kinds(TEXT), 2)], ids=["blocks", "kinds"])
def test_every_score_is_recorded_once_for_each_seed_and_place(
    group: Group, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "GROUPS", (group,))
    monkeypatch.setattr(places, "tuned", lambda *_: 0.01)
    monkeypatch.setattr(block_scores, "TRIALS", (1, 2))
    monkeypatch.setattr(block_scores, "SUMMED", ("half-step",))
    monkeypatch.setattr(kind_scores, "SUMMED", ("gradient",))
    records, snapshots = Records(tmp_path), Snapshots(tmp_path / "snapshots")
    for _ in range(2):
        places.run(["small"], records, snapshots)
    rows = places.read(records, group)
    found = [(row["score"], row["seed"]) for row in rows]
    assert len(set(found)) == len(found) == 2 * len({name for name, _ in found})
    assert {"change of the stream", "trial of 1 steps", "trial of 2 steps"} <= {name for name, _ in found}
    assert all(len(row[group.places]) == count and row["seconds"] >= 0 for row in rows)


def test_what_is_recorded_belongs_to_the_arms_and_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, records = _group(MLP), Records(tmp_path)
    other = replace(group, arms=tuple(replace(arm, zero=True) for arm in group.arms))
    measured: list[float] = []

    def rows(group: Group, members: Members, snapshots: Snapshots, known: set[str]) -> Iterator[dict[str, object]]:
        wanted = {"score"} - known
        measured.extend(members[0][0] for _ in wanted)
        settings = {"digest": places._digest(group)}
        return ({"score": name, "rate": rate, "seed": seed, **settings} for name in wanted for rate, seed in members)

    monkeypatch.setattr(places, "_rows", rows)
    for now, rate in ((group, 0.01), (group, 0.01), (group, 0.02), (other, 0.02), (other, 0.02)):
        monkeypatch.setattr(places, "GROUPS", (now,))
        monkeypatch.setattr(places, "tuned", lambda *_, rate=rate: rate)
        places.run(["small"], records, Snapshots(tmp_path / "snapshots"))
        assert len(places.read(records, now)) == 2
    assert measured == [0.01, 0.02, 0.02]


def test_a_trial_is_the_beginning_of_the_run_that_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, data = _group(MLP), source(MLP)
    snapshots = Snapshots(tmp_path)
    monkeypatch.setattr(block_scores, "TRIALS", (4,))
    monkeypatch.setattr(block_scores, "_held_out", lambda _: (data.test_x, data.test_y))
    progress = reach(group.task, group.arms[0], MEMBERS, 4, snapshots)
    found = block_scores.trials(progress, group.task, group.arms, MEMBERS, _site(group.task))["trial of 4 steps"]
    for index, arm in enumerate(group.arms):
        whole = [record["loss"] for record in run(group.task, arm, MEMBERS, snapshots)]
        assert found[:, index].tolist() == pytest.approx(whole, rel=1e-5)


def test_a_trial_of_kinds_asks_for_the_one_with_the_least_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, records, data = _kinds(IMAGES), Records(tmp_path), source(IMAGES)
    monkeypatch.setattr(places, "GROUPS", (group,))
    monkeypatch.setattr(places, "tuned", lambda *_: 0.01)
    monkeypatch.setattr(block_scores, "TRIALS", (4,))
    monkeypatch.setattr(block_scores, "_held_out", lambda _: (data.test_x, data.test_y))
    places.run(["small"], records, Snapshots(tmp_path / "snapshots"))
    losses = [
        [row["loss"] for row in run(group.task, arm, MEMBERS, Snapshots(tmp_path / "snapshots"))] for arm in group.arms
    ]
    (first, second) = [row["kinds"] for row in places.read(records, group) if row["score"] == "trial of 4 steps"]
    assert [first, second] == [pytest.approx([-own[seed] for own in losses], rel=1e-5) for seed in range(2)]


@pytest.mark.parametrize("architecture", [MLP, IMAGES])
def test_losses_without_a_block_and_right_after_it_grew_are_those_of_such_networks(
    architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, data = _group(architecture), source(architecture)
    monkeypatch.setattr(block_scores, "_held_out", lambda _: (data.test_x, data.test_y))
    state, site = reach(group.task, group.arms[0], MEMBERS, 4, Snapshots(tmp_path)).state, _site(group.task)
    scores = block_scores.scores(data)
    without, after = (scores[name](state, site) for name in ("loss without it", "loss right after half-steps of it"))
    for block in range(4):
        shorter = replace(
            state,
            shapes=state.shapes[:block] + state.shapes[block + 1 :],
            blocks=state.blocks[:block] + state.blocks[block + 1 :],
        )
        for found, changed in ((without, shorter), (-after, HalfSteps((block,))(state, site))):
            network = Network(architecture, changed.shapes)
            for index in range(len(SEEDS)):
                values = {name: value[index] for name, value in changed.values().items()}
                logits = functional_call(network, values, (data.test_x,))
                expected = torch.nn.functional.cross_entropy(logits, data.test_y)
                assert found[index, block].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_change_of_the_stream_is_the_length_of_what_a_block_adds(tmp_path: Path) -> None:
    group = _group(MLP)
    state, site = reach(group.task, group.arms[0], MEMBERS, 4, Snapshots(tmp_path)).state, _site(group.task)
    found = block_scores.scores(source(MLP))["change of the stream"](state, site)
    x = site.probe()[0]
    for index in range(len(SEEDS)):
        network = Network(MLP, state.shapes)
        network.load_state_dict({name: value[index] for name, value in state.values().items()})
        with torch.no_grad():
            stream = network.stem(x[index]) + network.position
            for place, block in enumerate(network.blocks):
                after = block(stream)
                expected = ((after - stream).norm(dim=-1) / stream.norm(dim=-1)).mean()
                assert found[index, place].item() == pytest.approx(expected.item(), rel=1e-4)
                stream = after


def test_split_blocks_are_the_same_networks(tmp_path: Path) -> None:
    group, data = _kinds(IMAGES), source(IMAGES)
    state = reach(group.task, group.arms[0], MEMBERS, 4, Snapshots(tmp_path)).state
    parts = kind_scores.split(state)
    for whole, part in zip(_outputs(state, data.test_x), _outputs(parts, data.test_x), strict=True):
        torch.testing.assert_close(part, whole)


def test_losses_without_a_kind_and_right_after_it_grew_are_those_of_such_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, data = _kinds(IMAGES), source(IMAGES)
    monkeypatch.setattr(block_scores, "_held_out", lambda _: (data.test_x, data.test_y))
    state, site = reach(group.task, group.arms[0], MEMBERS, 4, Snapshots(tmp_path)).state, _site(group.task)
    scores = kind_scores.scores(data, group.arms)
    without, after = (scores[name](state, site) for name in ("loss without it", "loss right after half-steps of it"))
    for kind, (name, arm) in enumerate(zip(kind_scores.KINDS, group.arms, strict=True)):
        silent = {n: Leaf.fresh(leaf.value * 0) if f".{name}.out." in n else leaf for n, leaf in state.leaves().items()}
        for found, changed in (
            (without, state.with_leaves(silent)),
            (-after, arm.events[0].rewrite(state, site)),
        ):
            expected = [torch.nn.functional.cross_entropy(out, data.test_y) for out in _outputs(changed, data.test_x)]
            torch.testing.assert_close(found[:, kind], torch.stack(expected), rtol=1e-4, atol=1e-6)


def _outputs(state: State, x: torch.Tensor) -> list[torch.Tensor]:
    network = Network(IMAGES, state.shapes)
    values = [{name: value[index] for name, value in state.values().items()} for index in range(len(SEEDS))]
    return [functional_call(network, each, (x,)) for each in values]


def test_scores_of_kinds_add_up_all_outputs_of_their_maps(tmp_path: Path) -> None:
    group, data = _kinds(IMAGES), source(IMAGES)
    state, site = reach(group.task, group.arms[0], MEMBERS, 4, Snapshots(tmp_path)).state, _site(group.task)
    found = kind_scores.scores(data, group.arms)["gradient"](state, site)
    for kind, maps in enumerate(kind_scores.KINDS.values()):
        priorities = scored(state, site, "gradient", maps)
        assert len(priorities) == 2 * len(state.blocks)
        expected = torch.stack([priority.clamp(min=0).sum(1) for priority in priorities]).sum(0)
        torch.testing.assert_close(found[:, kind], expected)
