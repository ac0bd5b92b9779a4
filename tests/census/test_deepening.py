"""The other way of the census: blocks become two steps, and why others do not is said once for each reason."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from model_census import deepening
from model_census.candidates import TORCHVISION_FAMILIES, Candidate, candidates, one_of_each_family
from model_census.deepening_report import write_report
from model_census.inputs import Input
from model_census.results import Failure, Result
from model_census.stages import CensusError, Subject
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm, self.drop = nn.Linear(8, 12), nn.Linear(12, 8), norm, nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.drop(self.fc2(self.fc1(x).relu())))


def pre_norm(dropout: float = 0.0) -> nn.Module:
    model = nn.Sequential(*[Block(nn.Identity()) for _ in range(3)])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def post_norm() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(8), *[Block(nn.LayerNorm(8)) for _ in range(2)])


def through(make: str, **arguments: float) -> Subject:
    candidate = Candidate("python", "own", f"{__name__}:{make}", {"": Input((2, 5, 8))}, arguments)
    subject = Subject(candidate, Path(), "eager")
    for stage in deepening.STAGES.values():
        stage(subject)
    return subject


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the census find the models of this file."""
    monkeypatch.setattr("model_census.building.import_module", lambda name: SimpleNamespace(**globals()))


def test_blocks_of_one_row_are_tried_by_the_first_of_them() -> None:
    facts = through("pre_norm").facts
    assert (facts["blocks"], facts["rows"], facts["can_wait"]) == (3, [3], 3)
    assert facts["zero"] == facts["half"] == {"0": ""}
    assert (facts["compared_in"], facts["float64"]) == ("eval, train", "equal")


def test_where_random_numbers_are_drawn_eval_mode_is_compared_alone() -> None:
    assert through("pre_norm", dropout=0.5).facts["compared_in"] == "eval"


def test_a_block_behind_a_norm_has_half_steps_and_no_silent_copy() -> None:
    facts = through("post_norm").facts
    assert "normalise once more" in facts["zero"]["1"]
    assert facts["half"] == {"1": ""}


def test_a_copy_that_is_not_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    deepen = deepening.fxgrow.deepen
    monkeypatch.setattr(deepening.fxgrow, "deepen", lambda traced, path, how: deepen(traced, path, how="half"))
    with pytest.raises(Exception, match="differ"):
        through("pre_norm")


def test_a_parameter_without_a_finite_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepening, "loss_of", lambda output, target: output.sum() * torch.tensor(float("nan")))
    with pytest.raises(CensusError, match=r"no finite gradient for 0\.fc1\.weight"):
        through("pre_norm")


def test_the_page_counts_rows_and_gives_reasons_without_names(tmp_path: Path) -> None:
    why = "its residual branch {} ends in no linear map, norm or scale of its own"
    facts = {"blocks": 3, "rows": [1, 1, 1], "can_wait": 0, "refused": {"view in a inside it is read outside": 1}}
    facts["zero"] = facts["half"] = {"a": "", "b": why.format("b.cat"), "c": why.format("c.cat")}
    passed = dict.fromkeys(deepening.ALL_STAGES, 1.0)
    some = Candidate("hf", "Family", "Model", {"": Input((2, 3))})
    none = Candidate("hf", "Other", "Broken", {"": Input((2, 3))})
    results = {
        some.key: Result.of(some, passed, facts, None, 1.0),
        none.key: Result.of(none, {"built": 1.0}, {}, Failure("found", "TraceError", "a | b"), 1.0),
    }
    write_report(results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    reasons = f"{why.format('').replace('  ', ' ')}; a value inside it is read outside"
    assert f"| Family: Model | 3 | 0 | 1 of 3 | 1 of 3 | {reasons} |" in page
    assert "| Other: Broken |  |  |  |  | not found: a \\| b |" in page
    assert "| half-steps | 1 of 2 |" in page


def test_bigger_sizes_of_a_family_are_not_asked() -> None:
    asked = {item.model for item in one_of_each_family("torchvision")}
    assert asked == TORCHVISION_FAMILIES, "all of them are torchvision's"
    assert len(one_of_each_family("timm")) == len(candidates("timm"))
