"""What a census does with models that fail, hang, grow too large or die, and with runs that were broken off."""

import json
from dataclasses import replace

import census
import pytest
import torch
from model_census import building, processes
from model_census.candidates import BEYOND_CLASSIFICATION, SUITES, Candidate, candidates
from model_census.inputs import Input
from model_census.processes import Limits
from model_census.report import write_report
from model_census.results import Failure, Result, append, read
from model_census.stages import ALL_STAGES
from model_census.summary import in_torch_prunings_list, median_growable_share, passed_by_stage


def test_the_candidates_are_98_families_97_of_torchvision_12_of_hugging_face_and_73_of_packages() -> None:
    counts = {suite: len(candidates(suite)) for suite in SUITES}
    assert counts == {"timm": 98, "torchvision": 97, "hf": 12, "packages": 73}
    assert len({item.key for item in candidates()}) == sum(counts.values())
    assert len({item.family for item in candidates("packages")}) >= 10


def test_every_timm_family_is_there_and_its_model_belongs_to_it() -> None:
    timm = pytest.importorskip("timm", minversion="1.0.31", reason="the list is that of a newer timm")
    chosen = {item.family: item.model for item in candidates("timm")}
    assert set(timm.list_modules()) == set(chosen)
    assert all(model in timm.list_models(module=family) for family, model in chosen.items())


def test_torch_prunings_list_has_85_names() -> None:
    listed = [item for item in candidates("torchvision") if in_torch_prunings_list(result_of(item))]
    assert len(listed) == 85
    assert set(BEYOND_CLASSIFICATION) <= {item.model for item in listed}


def test_zero_parameters_are_woken_and_others_left_alone() -> None:
    model = torch.nn.BatchNorm1d(4)
    building.wake(model)
    assert bool(model.bias.all())
    assert torch.equal(model.weight, torch.ones(4))


def test_the_loss_takes_any_structure_of_outputs() -> None:
    target = torch.tensor([0, 1])
    single = building.loss_of(torch.eye(2), target)
    assert torch.isclose(building.loss_of({"logits": torch.eye(2), "ids": target}, target), single)
    assert building.loss_of((torch.randn(2, 3, 4), torch.randn(2, 5)), target).shape == ()


@pytest.mark.parametrize(
    ("model", "exception", "message"),
    [
        ("raises", "ValueError", "first line second line"),
        ("hangs", "TimeoutError", "it took more than 4 s in all"),
        ("dies", "ProcessError", "the process ended with exit code 7"),
        ("eats", "RuntimeError", "allocate"),
    ],
)
def test_whatever_a_model_does_to_its_process_is_a_reason_in_the_results(model, exception, message) -> None:
    candidate = Candidate("python", "misbehaving", f"misbehaving:{model}", {"": Input((2, 3))})
    seconds = 4 if model == "hangs" else 180
    limits = Limits(seconds=seconds, gigabytes=4)
    (result,) = processes.census([candidate], limits, jobs=1, backend="eager", started=lambda candidate: None)
    assert result.failure is not None
    assert (result.failure.stage, result.failure.exception) == ("built", exception)
    assert message in result.failure.message
    assert "\n" not in result.failure.message


def test_a_model_of_ones_own_goes_all_the_way_and_the_stages_are_timed() -> None:
    candidate = Candidate("python", "own", "misbehaving:behaves", {"": Input((2, 3))})
    (result,) = processes.census([candidate], Limits(seconds=600), jobs=1, backend="eager", started=lambda _: None)
    assert result.failure is None
    assert tuple(result.stages) == ALL_STAGES
    assert result.facts["growable_share"] == 1.0
    assert result.facts["grown_parameters"] > result.facts["parameters"]


def result_of(candidate: Candidate, failure: Failure | None = None, share: float = 0.9) -> Result:
    passed = ALL_STAGES if failure is None else ALL_STAGES[: ALL_STAGES.index(failure.stage)]
    facts = {"growable_share": share, "parameters": 1000, "nodes": 10, "door": "symbolic trace", "whole": ["a.b"]}
    return Result.of(candidate, dict.fromkeys(passed, 1.0), facts, failure, 12.0)


def test_results_come_back_as_they_were_written_and_a_torn_line_is_left_out(tmp_path) -> None:
    path = tmp_path / "new folder" / "results.jsonl"
    first, second, *_ = candidates("hf")
    append(path, result_of(first, Failure("gated", "VerificationError", "x | y")))
    append(path, result_of(second))
    with path.open("a") as stream:
        stream.write(json.dumps({"key": "hf:torn"})[:-4])
    found = read(path)
    assert list(found) == [first.key, second.key]
    assert found[first.key].failure == Failure("gated", "VerificationError", "x | y")
    append(path, result_of(first))
    assert read(path)[first.key].failure is None


def test_a_run_leaves_out_what_the_results_have_and_does_not_start_over_unasked(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "results.jsonl"
    known = candidates("hf")[:10]
    failed = known[3]
    for item in known:
        append(path, result_of(item, Failure("traced", "TraceError", "no") if item is failed else None))
    asked: list[list[str]] = []
    monkeypatch.setattr("model_census.console.run", lambda chosen, *_, **__: asked.append([c.key for c in chosen]) or 0)
    assert census.main(["--only", "hf", "--results", str(path)]) == 2
    assert "--resume" in capsys.readouterr().err
    census.main(["--only", "hf", "--results", str(path), "--resume"])
    census.main(["--only", "hf", "--results", str(path), "--resume", "--retry-failed"])
    census.main(["--models", "hf:Gpt*", "--models", "hf:GPT2*", "--results", str(tmp_path / "other.jsonl")])
    rest = [item.key for item in candidates("hf")[10:]]
    assert asked == [rest, [failed.key, *rest], ["hf:GPT2LMHeadModel"]]


def test_a_stage_that_the_census_had_not_yet_counts_for_those_who_were_asked() -> None:
    first, second, third = candidates("hf")[:3]
    earlier = result_of(first)
    stages = {stage: 1.0 for stage in earlier.stages if stage != "rows"}
    found = [replace(earlier, stages=stages), result_of(second), result_of(third, Failure("rows", "CensusError", "no"))]
    group = passed_by_stage(found)["Hugging Face"]
    assert (group.spelled("backward"), group.spelled("rows"), group.spelled("compiled")) == (
        "3 of 3",
        "1 of 2",
        "2 of 3",
    )
    assert passed_by_stage(found[:1])["Hugging Face"].spelled("rows") == ""


def test_the_page_counts_groups_and_gives_each_failure_its_reason(tmp_path) -> None:
    chosen = [candidates("timm")[0], *candidates("torchvision")[:2], candidates("torchvision")[-1]]
    failure = Failure("gated", "VerificationError", "a | b")
    found = [result_of(item, failure if index == 3 else None, share=0.2 * index) for index, item in enumerate(chosen)]
    groups = passed_by_stage(found)
    assert {name: group.total for name, group in groups.items()} == {
        "timm families": 1,
        "torchvision classification": 2,
        "torchvision, other tasks": 1,
    }
    assert groups["torchvision, other tasks"].spelled("traced") == "1 of 1"
    assert groups["torchvision, other tasks"].spelled("gated") == "0 of 1"
    assert median_growable_share(found) == pytest.approx(0.3)
    write_report({item.key: item for item in found}, tmp_path / "census.md")
    page = (tmp_path / "census.md").read_text()
    assert "| loaded | 1 of 1 | 2 of 2 | 0 of 1 | 2 of 3 |" in page
    assert "| torchvision:raft_large | gated | VerificationError | a \\| b |" in page
