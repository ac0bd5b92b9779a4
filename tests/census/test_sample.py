"""The fixed sample of models goes all the way, each in its own process."""

import importlib
import importlib.util

import pytest
from model_census.candidates import SUITES, Candidate
from model_census.console import describe
from model_census.processes import Limits, census
from model_census.sample import sample

#: what a model of a suite, or of a package whose import is called otherwise, needs
LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers", "nanoGPT-like": "torch"}


def test_the_sample_is_twelve_models_of_libraries_and_twelve_of_packages() -> None:
    assert [item.suite == "packages" for item in sample()] == [False] * 12 + [True] * 12
    assert {item.suite for item in sample()} == set(SUITES)


@pytest.mark.parametrize("candidate", sample(), ids=lambda candidate: candidate.key)
def test_a_model_of_the_sample_goes_from_its_own_code_to_a_grown_model_in_a_file_and_back(candidate: Candidate) -> None:
    home = candidate.family if candidate.suite == "packages" else candidate.suite
    library = LIBRARIES.get(home, home.replace("-", "_"))
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    if candidate.suite == "timm" and not _in_this_timm(candidate.model):
        pytest.skip("this timm is older than the model")
    # The backend that only captures: compiling further is the full census's work.
    limits = Limits(seconds=600)
    (result,) = census([candidate], limits, jobs=1, backend="eager", started=lambda candidate: None)
    assert result.failure is None, describe(result)
    assert result.facts["growable_share"] > 0.5
    assert result.facts["operations"] > 0
    assert result.facts["rows"] > 0


def _in_this_timm(model: str) -> bool:
    return ":" in model or model in importlib.import_module("timm").list_models()
