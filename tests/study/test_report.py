"""The page says what the records say, and nothing about what has not run."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import study.records
from study import claims
from study.arms import Arm
from study.claims import Reached
from study.groups import FRONTIERS, GATES, GROUPS
from study.plan import fresh_seeds, gate
from study.records import Records
from study.report import page
from study.saddles import ALONG
from study.tasks import TASKS

from fxgrow.demo.claim import Claim


def _row(rate: float, seed: int, loss: float, cost: float = 100.0, seconds: float | None = None) -> dict[str, object]:
    spent = {"cost": cost, "flops": cost, "seconds": seconds or cost}
    numbers = {"loss": loss, "accuracy": 0.5, "parameters": 7, **spent}
    return {"rate": rate, "seed": seed, **numbers}


def _record(records: Records, task: str, arm: object, loss: float, cost: float = 100.0, fresh: int = 3) -> None:
    """Record an arm whose middle rate is the best one, and its fresh seeds, that differ by their luck."""
    settings = TASKS[task]
    for place, rate in enumerate(settings.rates):
        rows = [_row(rate, seed, loss + abs(place - 1), cost) for seed in range(settings.tuning)]
        records.add(settings, arm, rows)  # type: ignore[arg-type]
    luck = np.random.default_rng(0).normal(0, 0.01, fresh)
    own = np.random.default_rng(round(1000 * loss)).normal(0, 0.001, fresh)
    rows = [_row(settings.rates[1], seed, loss + luck[i] + own[i], cost) for i, seed in enumerate(fresh_seeds(fresh))]
    records.add(settings, arm, rows)  # type: ignore[arg-type]


def test_a_page_without_records_claims_nothing(tmp_path: Path) -> None:
    text = page(Records(tmp_path))
    assert "not run" in text
    assert "| yes |" not in text
    assert "python benchmarks/study run --tasks" not in text


def test_a_gate_opens_by_the_fresh_seeds(tmp_path: Path) -> None:
    records = Records(tmp_path)
    small, big = GATES["text"]
    _record(records, "text", small, 2.0)
    _record(records, "text", big, 1.5)
    found = gate(records, TASKS["text"])
    assert found is not None
    assert found.mean == pytest.approx(-0.5, abs=0.01)
    (line,) = [line for line in page(records).splitlines() if line.startswith("| Python's library") and "yes" in line]
    assert f"{found.mean:+.4f} ± {found.error:.4f}" in line


def test_the_cost_of_a_loss_is_interpolated_between_arms_of_the_records(tmp_path: Path) -> None:
    records = Records(tmp_path)
    frontier = next(f for f in FRONTIERS if f.task.name == "text" and f.title.startswith("1-2-4-8"))
    for arm, loss, cost in zip((frontier.baseline, *frontier.arms), (1.5, 1.4, 1.6), (100.0, 80.0, 20.0), strict=False):
        _record(records, "text", arm, loss, cost, frontier.fresh)
    said = f"| 1-2-4-8 by half-steps | {frontier.fresh} fresh |"
    (line,) = [line for line in page(records).splitlines() if said in line]
    assert "| 0.40 |" in line  # the geometric mean of 0.2 and 0.8


@pytest.mark.parametrize(("losses", "said"), [((1.8, 1.9), "not reached"), ((1.2, 1.3), "at most 0.20")])
def test_a_cost_that_lies_outside_of_what_was_tried_is_said_so(
    losses: tuple[float, float], said: str, tmp_path: Path
) -> None:
    records = Records(tmp_path)
    frontier = next(f for f in FRONTIERS if f.task.name == "text" and f.title.startswith("1-2-4-8"))
    for arm, loss, cost in zip((frontier.baseline, *frontier.arms), (1.5, *losses), (100.0, 80.0, 20.0), strict=False):
        _record(records, "text", arm, loss, cost, frontier.fresh)
    (line,) = [line for line in page(records).splitlines() if line.startswith(f"| {frontier.task.title} | 1-2-4-8")]
    assert f"| scratch 8 | {said} | {said} |" in line


def _batches(records: Records, arm: Arm, sizes: dict[int, float]) -> None:
    """Record fresh seeds of an arm, in batches of so many networks that take so many seconds each."""
    seeds = iter(fresh_seeds(sum(sizes)))
    for size, seconds in sizes.items():
        records.add(TASKS["text"], arm, [_row(0.016, next(seeds), 1.5, 100.0, seconds) for _ in range(size)])


def test_seconds_are_compared_between_batches_of_one_size(tmp_path: Path) -> None:
    records = Records(tmp_path)
    group = next(group for group in GROUPS if group.task.name == "text" and group.fresh == 4)
    one, other, *_ = group.arms
    for arm, sizes in ((group.baseline, {3: 10.0, 1: 30.0}), (one, {1: 15.0, 3: 6.0}), (other, {4: 8.0})):
        tuning = [_row(rate, 0, 1 + abs(place - 1)) for place, rate in enumerate(group.task.rates)]
        records.add(group.task, arm, tuning)
        _batches(records, arm, sizes)
    known = [line.split(" | ") for line in page(records).splitlines() if " fresh |" not in line]
    cells = {line[0][2:]: line[5] for line in known if len(line) == 12}
    assert cells[group.baseline.name] == "1.00"
    assert cells[one.name] == "0.60"
    assert cells[other.name] == ""


def test_grown_networks_are_held_against_shorter_runs_at_their_cost(tmp_path: Path) -> None:
    records = Records(tmp_path)
    grown, plain = [f for f in FRONTIERS if f.task.name == "text"][:2]
    for arm, loss, cost in zip(grown.arms, (1.4, 1.6), (80.0, 20.0), strict=False):
        _record(records, "text", arm, loss, cost, grown.fresh)
    for arm, loss, cost in zip(plain.arms, (1.5, 1.7, 1.8), (100.0, 40.0, 10.0), strict=True):
        _record(records, "text", arm, loss, cost, plain.fresh)
    begins = f"| {grown.task.title} | {grown.fresh} |"
    (line,) = [line for line in page(records).splitlines() if line.startswith(begins)]
    cost, loss = line.split("|")[3:5]
    assert float(cost) == 0.4  # at 1 and at 0.1 there is nothing to interpolate between
    assert float(loss.split("±")[0]) == pytest.approx(1.5 - 1.7, abs=0.01)  # half way from 1.6 to 1.4 in log cost


def test_tables_of_fresh_seeds_have_corrected_p_values_and_commands(tmp_path: Path) -> None:
    records = Records(tmp_path)
    group = next(group for group in GROUPS if group.task.name == "text" and group.fresh)
    _record(records, "text", group.baseline, 1.5, fresh=group.fresh)
    _record(records, "text", group.arms[0], 1.4, fresh=group.fresh)
    text = page(records)
    assert "| p |" in text
    assert f"--tasks text --arms '{group.arms[0].name}'" in text
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {group.arms[0].name} |") and "100%" in line]
    assert "-0.1" in line


def test_places_are_held_against_the_best_of_them(tmp_path: Path) -> None:
    records = Records(tmp_path)
    group = next(group for group in GROUPS if group.places)
    seeds = group.after + group.fresh
    _record(records, group.task.name, group.baseline, 1.5, fresh=seeds)
    for place, arm in enumerate(group.arms):
        _record(records, group.task.name, arm, 1.4 + 0.1 * place, fresh=seeds)
    (line,) = [line for line in page(records).splitlines() if line.startswith("| the best place")]
    assert "-0.1" in line


def test_a_score_of_blocks_has_the_loss_of_what_it_chooses(tmp_path: Path) -> None:
    records = Records(tmp_path)
    group = next(group for group in GROUPS if group.places == "blocks" and group.task.name == "text")
    _record(records, "text", group.baseline, 1.5, fresh=group.fresh)
    for place, arm in enumerate(group.arms):
        _record(records, "text", arm, 1.5 + 0.1 * place, fresh=group.fresh)
    found = {"knows": [1.0, 2.0, 3.0, 4.0], "is wrong": [4.0, 3.0, 2.0, 1.0]}
    common = {"rate": group.task.rates[1], "seconds": 2}
    seeds = group.seeds
    rows = [{"seed": seed, "score": name, "blocks": own, **common} for name, own in found.items() for seed in seeds]
    rows += [{"seed": seed, "score": "half-run", "blocks": [0.0] * 4, **common} for seed in seeds[:2]]
    rows += [{**row, "rate": 0.5, "blocks": [9.0] * 4} for row in rows]
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = page(records).split("## Does a score know the blocks?")[1].splitlines()
    assert f"{group.task.title}: not on all 6 seeds, and so not shown: half-run (2)." in lines
    # the first table is of a block that is left out, the second of one that gets all
    right, wrong = (next(line.split(" | ") for line in lines if line.startswith(f"| {name} |")) for name in found)
    assert (right[1], wrong[1]) == ("+1.00 ± 0.00", "-1.00 ± 0.00")
    assert [float(line[2].split(" ±")[0]) for line in (right, wrong)] == pytest.approx([0.0, 0.3], abs=0.002)
    assert [float(line[3].split(" ±")[0]) for line in (right, wrong)] == pytest.approx([-0.15, 0.15], abs=0.002)


def test_the_saddle_section_says_how_far_the_loss_falls_along_the_escape_direction(tmp_path: Path) -> None:
    numbers = {"loss": 1.0, "least": -0.1, "held_out": 0.0, "significant": 0.5, "model_least": -1, "model_greatest": 2}
    down = [abs(t) + (-0.5 if t == 0.25 else 0.0) for t in ALONG]
    curves = {"escape_probe": down, "escape_test": [abs(t) for t in ALONG], "gradient_test": down}
    rows = [{"arm": "not grown", "step": 0, "seed": seed, **numbers, **curves} for seed in (0, 1)]
    rows[1] |= {"loss": 1.2, "escape_probe": [1.4 * t for t in down], "gradient_test": [1.4 * t for t in down]}
    path = tmp_path / "saddles" / "mnist1d-mlp.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = [line for line in page(Records(tmp_path)).splitlines() if line.startswith("| not grown | +0 |")]
    assert line.endswith("| -0.3000 ± 0.0500 at +0.25 | 0 | -0.3000 ± 0.0500 at +0.25 |")
    assert "| 1.1000 ± 0.1000 |" in line


@pytest.fixture
def claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "TARGET", tmp_path / "study.json")
    records = Records(tmp_path / "records")
    for frontier, costs in ((claims.CLAIMED, (80.0, 20.0)), (claims.BEST, (90.0, 40.0))):
        grown = zip(frontier.arms, (0.2, 0.3), costs, strict=False)
        for arm, loss, cost in ((frontier.baseline, 0.25, 100.0), *grown):
            _record(records, "mnist1d-mlp", arm, loss, cost, frontier.fresh)
    return tmp_path / "records"


def test_what_the_library_claims_comes_from_the_records_of_the_repository_only(
    claimed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.write(Records(claimed))
    assert not claims.TARGET.exists()
    monkeypatch.setattr(study.records, "FOLDER", claimed)
    claims.write(Records(claimed))
    claim = msgspec.json.decode(claims.TARGET.read_bytes(), type=Claim)
    assert (claim.cost.cost, claim.best.cost) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.6, abs=0.01))
    for own in (claim.cost, claim.best):
        assert own.high is not None
        assert own.low <= own.cost <= own.high


def test_what_is_not_known_is_no_number_in_the_claim(claimed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.records, "FOLDER", claimed)
    reached = Reached({"cost": 0.7, "flops": 0.7}, {}, (0.6, float("inf")))
    monkeypatch.setattr(claims, "reached", lambda *_: reached)
    claims.write(Records(claimed))
    claim = msgspec.json.decode(claims.TARGET.read_bytes(), type=Claim)
    assert (claim.cost.high, claim.best.high, claim.seconds) == (None, None, None)
    assert "(from 0.60 on, open above)." in str(claim)
    monkeypatch.setattr(claims, "reached", lambda *_: replace(reached, points={"cost": float("nan")}))
    assert claims.claim(Records(claimed)) is None
