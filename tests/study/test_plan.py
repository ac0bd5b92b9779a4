"""The plan: names are unique, rates are tuned on seeds that are not used again, and nothing is run twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import MLP, task
from study import plan, running_all
from study.arms import Arm, depth
from study.families import FULL, HALF, MIDDLE, begun_anew, grown, raised_in_the_middle, scratch
from study.plan import Experiment, binds, experiments, fresh_seeds, gate, tried, tuned
from study.records import FOLDER, Records, cell
from study.rewrites import AtOwnRate, Restart
from study.running_all import jobs, run_all
from study.schedules import Change, Cycle, rates
from study.snapshots import Snapshots, beginning


def _arm(name: str = "arm", steps: int = 3) -> Arm:
    return Arm(name, depth(task(MLP).block, 1), (Cycle(steps),))


def _rows(losses: dict[tuple[float, int], float]) -> list[dict[str, object]]:
    return [{"rate": rate, "seed": seed, "loss": loss} for (rate, seed), loss in losses.items()]


def test_one_name_means_one_arm() -> None:
    arms: dict[tuple[str, str], Arm] = {}
    for experiment in experiments():
        assert arms.setdefault((experiment.task.name, experiment.arm.name), experiment.arm) == experiment.arm


def test_seeds_that_confirm_are_not_those_that_tuned() -> None:
    for experiment in experiments():
        assert not set(experiment.seeds) & set(experiment.tuning)
        assert experiment.confirms == (experiment.seeds[0] >= 1000)


def test_every_arm_trains_for_as_long_as_its_cycles_and_grows_on_the_way() -> None:
    for experiment in experiments():
        arm = experiment.arm
        assert len(arm.rates()) == arm.steps
        assert all(0 < event.at < arm.steps for event in arm.events)
        assert (arm.rates() > 0).all()


def test_a_cycle_warms_up_holds_and_decays() -> None:
    found = Cycle(100, peak=2.0, warm=0.1, hold=0.5).rates()
    assert found[0] == pytest.approx(0.1)
    assert (found[10:50] == 2.0).all()
    assert (np.diff(found[50:]) < 0).all()
    assert found[-1] < 0.01


def test_a_change_multiplies_and_warms_up_from_its_step() -> None:
    plain, changed = rates([Cycle(40, hold=0.9)]), rates([Cycle(40, hold=0.9)], [Change(10, factor=0.5, rewarm=4)])
    assert (changed[:10] == plain[:10]).all()
    assert changed[10:14] / plain[10:14] == pytest.approx([0.0625, 0.1875, 0.3125, 0.4375])
    assert (changed[14:] == plain[14:] / 2).all()


def test_the_tuned_rate_has_the_least_mean_loss_and_waits_for_all_runs(tmp_path: Path) -> None:
    small, arm, records = task(MLP), _arm(), Records(tmp_path)
    records.add(small, arm, _rows({(0.01, 0): 1.0, (0.01, 1): 2.0, (0.02, 0): 0.5}))
    assert tuned(records, small, arm, (0, 1)) is None
    records.add(small, arm, _rows({(0.02, 1): 2.7}))
    assert tuned(records, small, arm, (0, 1)) == 0.01


@pytest.mark.parametrize(
    ("best", "grids"), [(0.02, [3]), (0.005, [3, 4, 5]), (0.08, [3, 4, 5]), (0.0001, [3, 4, 5, 6])]
)
def test_a_grid_goes_on_beyond_the_end_that_is_best_until_it_is_not(
    best: float, grids: list[int], tmp_path: Path
) -> None:
    small, arm, records = task(MLP, rates=(0.01, 0.02, 0.04)), _arm(), Records(tmp_path)
    experiment, found = Experiment(small, arm, (0,)), []
    for _ in grids:
        rates = experiment.rates(records)
        found.append(len(rates))
        assert np.diff(np.log2(rates)) == pytest.approx(1)
        known = tried(records, small, arm, (0,))
        records.add(small, arm, _rows({(rate, 0): 1 + np.log2(rate / best) ** 2 for rate in set(rates) - set(known)}))
    assert found == grids
    assert len(experiment.rates(records)) == grids[-1]
    assert tuned(records, small, arm, (0,)) == min(
        tried(records, small, arm, (0,)), key=lambda r: abs(np.log2(r / best))
    )


def test_arms_of_which_something_is_claimed_are_tuned_beyond_an_end() -> None:
    claimed = {(e.task.name, (e.rate_of or e.arm)) for e in experiments() if e.confirms}
    for experiment in experiments():
        if not experiment.confirms:
            assert experiment.explores == ((experiment.task.name, experiment.arm) not in claimed)


def test_a_rate_at_which_a_run_diverges_is_not_chosen(tmp_path: Path) -> None:
    small, arm, records = task(MLP), _arm(), Records(tmp_path)
    records.add(small, arm, _rows({(0.01, 0): float("nan"), (0.02, 0): 9.0}))
    assert tuned(records, small, arm, (0,)) == 0.02


def test_records_are_read_back_and_belong_to_the_arm_s_data(tmp_path: Path) -> None:
    small, arm = task(MLP), _arm()
    Records(tmp_path).add(small, arm, _rows({(0.01, 0): 1.0}))
    again = Records(tmp_path)
    assert cell(small, arm, 0.01, 0) in again
    assert cell(small, _arm(steps=4), 0.01, 0) not in again
    assert cell(replace(small, batch=9), arm, 0.01, 0) not in again


@pytest.fixture
def _open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_all, "gate", lambda records, task: None)
    monkeypatch.setattr(running_all, "binds", lambda difference: True)


@pytest.mark.usefixtures("_open")
def test_what_is_recorded_is_not_run_again(tmp_path: Path) -> None:
    small, arm = task(MLP), _arm()
    study = [Experiment(small, arm, (0, 1)), Experiment(small, arm, (7,), (0, 1))]
    records = Records(tmp_path / "records")
    assert [len(job.members) for job in jobs(study, records)] == [4]
    run_all(study, records, Snapshots(tmp_path / "snapshots"))
    assert len(records.rows) == 2 * len(tried(records, small, arm, (0, 1))) + 1
    assert not list(jobs(study, Records(tmp_path / "records")))


def _gate_rows(losses: Callable[[int], float]) -> list[dict[str, object]]:
    tuning = {(rate, seed): 1.0 for rate in task(MLP).rates for seed in (0, 1)}
    fresh = {(task(MLP).rates[0], seed): losses(seed) for seed in fresh_seeds(task(MLP).gate_seeds)}
    return _rows(tuning | fresh)


@pytest.mark.parametrize(("gain", "open_"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_arms_wait_for_a_gate_that_is_open(
    gain: float, open_: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, records = task(MLP), Records(tmp_path)
    less, more = _arm("less", 2), _arm("more", 4)
    monkeypatch.setitem(plan.GATES, "small", (less, more))
    study = [Experiment(small, _arm(), (0,))]
    assert gate(records, small) is None
    assert not list(jobs(study, records))
    luck = np.random.default_rng(0).normal(0, 0.01, task(MLP).gate_seeds)
    records.add(small, less, _gate_rows(lambda seed: 1 + luck[seed - 1000]))
    records.add(small, more, _gate_rows(lambda seed: 1 - gain + luck[-1 - (seed - 1000)]))
    assert binds(gate(records, small)) == open_
    assert bool(list(jobs(study, records))) == open_
    assert list(jobs([replace(study[0], task=replace(small, negative=True))], records))


def test_the_records_of_the_repository_can_be_read() -> None:
    for key, row in Records(FOLDER).rows.items():
        assert float(str(row["loss"])) > 0, key
        assert row["torch"]
        assert row["machine"]


@pytest.mark.parametrize("change", [raised_in_the_middle, begun_anew], ids=lambda change: change.__name__)
@pytest.mark.parametrize("grows", [False, True])
def test_another_rate_from_the_middle_on_changes_nothing_before(
    change: Callable[[Arm, float], Arm], grows: bool
) -> None:
    small = replace(task(MLP), steps=40)
    arm = grown(small, FULL, MIDDLE) if grows else scratch(small, 8)
    changed, middle = change(arm, 2.0), arm.steps // 2
    seeds = tuple((0.01, seed) for seed in range(3))
    assert beginning(small, changed, seeds, middle) == beginning(small, arm, seeds, middle), (
        "it goes on from the same state"
    )
    assert changed.events[:-1] == arm.events[:-1]
    assert changed.events[-1].at == middle
    later = changed.rates()[middle:] / arm.rates()[middle:]
    assert np.allclose(later, 2.0 if change is raised_in_the_middle else 1.0)
    if change is begun_anew:
        assert changed.events[-1].rewrite == AtOwnRate(HALF if grows else Restart(), 2.0)
