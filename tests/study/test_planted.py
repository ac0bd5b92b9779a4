"""The planted task: parameters are equal, silent units change nothing, and what is recorded is not run again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from study import report_planted
from study.planted import arms, students, study, teacher
from study.planted.teacher import HARD, OUTPUTS, VARIANTS, Teacher

import fxgrow

SEEDS = (0, 1)
TEACHERS = [Teacher(VARIANTS[0], seed) for seed in SEEDS]


def _inputs() -> torch.Tensor:
    return TEACHERS[0].draw(np.random.default_rng(0), 8).x.expand(len(SEEDS), -1, -1)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_outputs_have_unit_spread_and_noise_only_where_it_is_planted(variant: teacher.Variant) -> None:
    own = Teacher(variant, 3)
    data = own.draw(np.random.default_rng(0), 4_000)
    assert sorted([*own.hard.tolist(), *own.easy.tolist()]) == list(range(OUTPUTS))
    torch.testing.assert_close(data.clean.std(0), torch.ones(OUTPUTS), rtol=0.1, atol=0.0)
    noise = (data.y - data.clean).std(0)
    assert (noise > 0).sum() == (HARD if variant.noise else 0)
    assert (noise[own.hard] == 0).all()


def test_a_linear_map_fits_the_easy_outputs_and_not_the_hard_ones() -> None:
    own = TEACHERS[0]
    data = own.draw(np.random.default_rng(0), 4_000)
    inputs = np.c_[data.x.numpy(), np.ones(4_000)]
    missing = np.linalg.lstsq(inputs, data.clean.numpy(), rcond=None)[1] / 4_000
    assert missing[own.easy].max() < 1e-6
    assert missing[own.hard].min() > 0.2


def test_new_units_are_silent_and_old_parameters_keep_their_moments() -> None:
    base = students.begin(SEEDS)
    students.train(base, TEACHERS, SEEDS, range(2), 0.01)
    given = arms.allocations({}, TEACHERS, SEEDS)
    grown = students.grow(base, SEEDS, torch.stack(list(given.values())))
    x = _inputs()
    torch.testing.assert_close(students.outputs(grown, x.repeat(len(given), 1, 1))[-2:], students.outputs(base, x))
    old, new = (each.optimizer.state[each.parameters["weight1"]] for each in (base, grown))
    assert torch.equal(new["exp_avg_sq"][-2:], old["exp_avg_sq"])


def test_a_batch_of_arms_is_trained_as_each_by_itself() -> None:
    base = students.begin(SEEDS)
    students.train(base, TEACHERS, SEEDS, range(1), 0.01)
    given = torch.stack(list(arms.allocations({}, TEACHERS, SEEDS).values()))[:3]
    together = students.grow(base, SEEDS, given)
    students.train(together, TEACHERS, SEEDS, range(4), 0.01)
    for index in range(3):
        alone = students.grow(base, SEEDS, given[index][None])
        students.train(alone, TEACHERS, SEEDS, range(4), 0.01)
        part = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(together.parameters["out_weight"][part], alone.parameters["out_weight"])


def test_the_network_that_scores_see_is_the_student() -> None:
    base = students.begin(SEEDS)
    own = {name: value[1].detach() for name, value in base.parameters.items()}
    network = teacher.module({name: value[0] if "bias" in name else value for name, value in own.items()})
    torch.testing.assert_close(network(_inputs()[1]), students.outputs(base, _inputs())[1])
    assert fxgrow.trace(network, _inputs()[1]) is not None


def test_every_arm_but_the_one_that_does_not_grow_gives_out_all_units() -> None:
    score = {"score": torch.linspace(-1, 1, OUTPUTS).repeat(len(SEEDS), 1)}
    given = arms.allocations(score, TEACHERS, SEEDS)
    assert {name for name, counts in given.items() if (counts.sum(1) != students.UNITS).any()} == {"not grown"}
    assert given["score, in proportion"][0, : OUTPUTS // 2].sum() == 0
    assert (arms.in_proportion(-torch.ones(OUTPUTS)) == students.UNITS // OUTPUTS).all()


def test_a_run_is_recorded_reported_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 6), ("GROWTH", 2)):
        monkeypatch.setattr(students, name, value)
    monkeypatch.setattr(study, "FRESH", 2)
    monkeypatch.setattr(study, "VARIANTS", VARIANTS[:1])
    monkeypatch.setattr(arms, "SCORES", ("residual", "random"))
    path = tmp_path / "planted" / "planted.jsonl"
    study.run(path)
    text = path.read_text()
    study.run(path)
    assert path.read_text() == text
    assert study.at_tuned_rate(study.read(path, VARIANTS[0]))
    assert all(row["machine"] for row in map(json.loads, text.splitlines()))
    said = report_planted.section(tmp_path)
    assert "| planted four |" in said
    assert "| residual, best four |" in said
    with monkeypatch.context() as other:
        other.setattr(students, "STEPS", 7)
        assert not study.read(path, VARIANTS[0])
    path.write_text(text + json.dumps({"variant": VARIANTS[0].name, "rate": _other_rate(text), "tuned": 0.0}) + "\n")
    assert not study.at_tuned_rate(study.read(path, VARIANTS[0]))


def _other_rate(text: str) -> float:
    """Return a rate of the grid that was not the best."""
    used = {row["rate"] for row in map(json.loads, text.splitlines()) if "arm" in row}
    return next(rate for rate in study.RATES if rate not in used)
