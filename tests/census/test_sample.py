"""The fixed sample of twelve models goes all the way, each in its own process."""

import importlib
import importlib.util

import pytest
from model_census.candidates import Candidate
from model_census.console import describe
from model_census.processes import Limits, census
from model_census.results import Result
from model_census.sample import REASONS, sample

LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}


def test_the_sample_is_twelve_models_of_all_suites() -> None:
    assert len(sample()) == len(REASONS) == 12
    assert {item.suite for item in sample()} == set(LIBRARIES)


@pytest.mark.parametrize("candidate", sample(), ids=lambda candidate: candidate.key)
def test_a_model_of_the_sample_goes_from_its_own_code_to_a_grown_model_in_a_file_and_back(candidate: Candidate) -> None:
    library = LIBRARIES[candidate.suite]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    if candidate.suite == "timm" and candidate.model not in importlib.import_module("timm").list_models():
        pytest.skip("this timm is older than the model")
    (result,) = run(candidate)
    assert result.failure is None, describe(result)
    assert result.facts["growable_share"] > 0.5


def run(candidate: Candidate) -> list[Result]:
    # The backend that only captures: compiling further is the full census's work.
    return list(census([candidate], Limits(seconds=240), jobs=1, backend="eager", started=lambda candidate: None))
