"""Random networks through tracing, random growth, and files."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.digest import digest
from fxgrow.testing import assert_same_function, graph_modules, growths, random_scores
from fxgrow.testing.networks import RandomNetwork
from fxgrow.verification import verify

Drawn = tuple[RandomNetwork, tuple[torch.Tensor, ...]]


@settings(max_examples=60)
@given(graph_modules())
def test_tracing_keeps_the_function_and_the_names_of_all_tensors(drawn: Drawn) -> None:
    model, inputs = drawn
    traced = fxgrow.trace(model, inputs, check=False)
    assert_same_function(model, traced, inputs)
    assert list(traced.state_dict()) == list(model.state_dict())


@settings(max_examples=60)
@given(
    st.sampled_from((torch.float64, torch.float32)).flatmap(lambda dtype: graph_modules(dtype=dtype)),
    st.lists(growths(), min_size=1, max_size=3),
)
def test_growing_again_and_again_keeps_the_function_and_the_budget(drawn: Drawn, options: list[dict[str, Any]]) -> None:
    model, inputs = drawn
    grown = fxgrow.trace(model, inputs, check=False)
    for growth in options:
        before, count = grown, parameter_count(grown)
        try:
            grown = fxgrow.grow(before, random_scores(before, growth["seed"]), **growth)
        except PlanError:
            continue
        budget = growth["budget"]
        allowed = budget * count if isinstance(budget, float) else budget
        added = sum(parameter.numel() for parameter in fxgrow.new_parameters(grown).values())
        assert 0 < added == parameter_count(grown) - count <= allowed
        assert all(getattr(p, "grad", None) is None and p.requires_grad for p in grown.parameters())
    output = grown(*inputs)
    assert (output.shape, output.dtype) == ((3, 3), inputs[0].dtype)
    assert {parameter.dtype for parameter in grown.parameters()} == {inputs[0].dtype}
    verify(model, grown, inputs)


@settings(max_examples=30)
@given(graph_modules(), growths())
def test_growth_is_deterministic_and_draws_nothing_from_the_global_stream(drawn: Drawn, growth: dict[str, Any]) -> None:
    model, inputs = drawn
    traced = fxgrow.trace(model, inputs, check=False)
    scores = random_scores(traced)
    state = torch.get_rng_state()
    try:
        first, second = (fxgrow.grow(traced, scores, **growth) for _ in range(2))
    except PlanError:
        return
    finally:
        assert torch.equal(torch.get_rng_state(), state)
    assert digest(first) == digest(second)
    for left, right in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert left[0] == right[0]
        assert torch.equal(left[1], right[1])


@settings(max_examples=25)
@given(graph_modules(max_steps=5), growths())
def test_a_grown_network_comes_back_from_its_file_bit_for_bit(drawn: Drawn, growth: dict[str, Any]) -> None:
    model, inputs = drawn
    grown = fxgrow.trace(model, inputs, check=False)
    with contextlib.suppress(PlanError):
        grown = fxgrow.grow(grown, random_scores(grown), **growth)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        fxgrow.save(grown, path)
        loaded = fxgrow.load(path, base=RandomNetwork(model.recipe))
    assert digest(loaded) == digest(grown)
    assert torch.equal(loaded.eval()(*inputs), grown.eval()(*inputs))
