"""A batched run, from the first step over its growth to the last, is that of fxgrow's public API and torch's AdamW."""

from dataclasses import replace
from pathlib import Path

import pytest
from small import BLOCKS, CONVOLUTION, IMAGES, MLP, STEM, TEXT, task
from study import single
from study.arms import Arm, Event, depth
from study.networks import Architecture
from study.plan import Experiment
from study.pseudo import PseudoLayers
from study.records import Records
from study.repeats import alone
from study.rewrites import Copies, FreshBlocks, HalfSteps, Rewrite, Widen
from study.running import run
from study.schedules import Cycle
from study.single import NotPublicError
from study.snapshots import Snapshots
from study.units import HalfUnits, SilentUnits

MEMBER = (0.01, 3)


def _arm(architecture: Architecture, *rewrites: Rewrite) -> Arm:
    events = tuple(Event(4 * (index + 1), rewrite) for index, rewrite in enumerate(rewrites))
    return Arm("grown", depth(BLOCKS[architecture], 2), (Cycle(12),), events)


TWICE = (HalfSteps(), HalfSteps((1, 2)))
OTHERS = [
    (Copies(), HalfSteps()),
    (HalfUnits(5),),
    (HalfUnits(5, "random"),),
    (HalfUnits(5, "eigen"),),
    *((PseudoLayers(kind, 4),) for kind in ("serial", "branch", "gated")),
    (Widen(6, "pairs"),),
]
EVERY = [(architecture, TWICE) for architecture in (MLP, TEXT, IMAGES, CONVOLUTION, STEM)]
EVERY += [(architecture, rewrites) for architecture in (MLP, TEXT) for rewrites in OTHERS]


@pytest.mark.parametrize(("architecture", "rewrites"), EVERY, ids=repr)
def test_a_batched_run_is_that_of_the_public_api(
    architecture: Architecture, rewrites: tuple[Rewrite, ...], tmp_path: Path
) -> None:
    small, arm = task(architecture), _arm(architecture, *rewrites)
    (row,) = run(small, arm, (MEMBER,), Snapshots(tmp_path))
    model = single.train(small, arm, *MEMBER)
    loss, accuracy = single.measure(small, model)
    assert sum(parameter.numel() for parameter in model.parameters()) == row["parameters"]
    assert loss == pytest.approx(row["loss"], rel=1e-4)
    assert accuracy == pytest.approx(row["accuracy"], abs=0.03)


@pytest.mark.parametrize("rewrite", [FreshBlocks(), HalfSteps(moments="copied"), Copies(scale=0.5), SilentUnits(3)])
def test_growth_that_only_the_study_has_is_told(rewrite: Rewrite) -> None:
    with pytest.raises(NotPublicError):
        single.train(task(MLP), _arm(MLP, rewrite), *MEMBER)


def test_networks_that_are_recorded_are_trained_again_by_themselves(tmp_path: Path) -> None:
    small, records = task(MLP, rates=(0.01,)), Records(tmp_path / "records")
    arms = [_arm(MLP, HalfSteps()), replace(_arm(MLP, FreshBlocks()), name="only the study's")]
    for arm in arms:
        members = tuple((0.01, seed) for seed in (0, 1, 1000, 1001))
        records.add(small, arm, run(small, arm, members, Snapshots(tmp_path / "snapshots")))
    study = [Experiment(small, arm, (1000, 1001), (0, 1)) for arm in arms]
    own, left_out = alone(study, records, 1)
    assert own.startswith("small: grown, seed 1000, rate 0.01: loss ")
    assert "difference +0.0000;" in own or "difference -0.0000;" in own
    assert left_out.startswith("small: only the study's: left out: fxgrow has no public operator for FreshBlocks")
