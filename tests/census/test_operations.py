"""The records of operations, held against behaviour for whatever occurs in a dozen of the census's models."""

import warnings
from collections.abc import Mapping

import pytest
from model_census.building import build
from model_census.candidates import Candidate, candidates
from model_census.sample import REASONS

import fxgrow
from fxgrow.testing import check_operations

_OF_LIBRARIES = ("timm:resnet10t", "timm:efficientvim_m1", "hf:GPT2LMHeadModel", "hf:T5ForConditionalGeneration")
_OF_PACKAGES = tuple(key for key in REASONS if key.startswith("packages:"))[4:]
_CHOSEN = [item for item in candidates() if item.key in _OF_LIBRARIES + _OF_PACKAGES]


def test_a_dozen_are_chosen() -> None:
    assert len(_CHOSEN) == 12


@pytest.mark.parametrize("candidate", _CHOSEN, ids=lambda candidate: candidate.key)
def test_whatever_an_operation_of_the_model_does_is_in_its_record(candidate: Candidate) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's packages warn of when they are imported and built
        built = build(candidate)
    traced = fxgrow.trace(built.model, built.inputs, check=False)
    names = [str(node.target) for node in traced.graph.find_nodes(op="placeholder")]
    inputs = [built.inputs[name] for name in names] if isinstance(built.inputs, Mapping) else [built.inputs]
    assert check_operations(traced, inputs) > 0
