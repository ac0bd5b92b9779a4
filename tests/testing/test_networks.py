"""The sample models and the random networks themselves."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

import fxgrow.testing
from fxgrow.execution.randomness import random_state
from fxgrow.testing import Layer, RandomNetwork, Recipe, graph_modules, sample_models
from fxgrow.testing.networks import ACTIVATIONS, IN_PLACE_ACTIVATIONS
from fxgrow.testing.strategies import recipes

Drawn = tuple[RandomNetwork, tuple[Tensor, ...]]
KINDS = {
    *ACTIVATIONS, *IN_PLACE_ACTIVATIONS, "add", "add_", "attention", "attention-dropout", "batch-norm", "concat",
    "conv", "dropout", "functional-dropout", "functional-linear", "group-norm", "layer-norm", "linear", "mean",
    "multiply", "pool", "reuse", "tied-linear", "tokens", "transposed-conv",
}  # fmt: skip


@pytest.mark.parametrize("name", sample_models())
def test_a_sample_model_is_the_same_each_time_and_leaves_the_random_state(name: str) -> None:
    before = random_state()
    (first, inputs), (second, others) = (sample_models()[name].make(seed=3, batch_size=5) for _ in range(2))
    assert random_state() == before
    assert torch.equal(inputs[0], others[0])
    assert first.eval()(*inputs).shape[0] == 5
    assert torch.equal(first(*inputs), second.eval()(*others))


@settings(max_examples=50)
@given(graph_modules())
def test_a_random_network_trains_in_every_parameter(drawn: Drawn) -> None:
    model, inputs = drawn
    output = model(*inputs)
    assert (output.shape, output.dtype) == ((3, 3), torch.float64)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@settings(max_examples=50)
@given(graph_modules())
def test_a_random_network_is_rebuilt_from_how_it_prints(drawn: Drawn) -> None:
    model, inputs = drawn
    names = {"RandomNetwork": RandomNetwork, "Recipe": Recipe, "Layer": Layer}
    rebuilt = eval(repr(model), names).double()
    assert rebuilt.recipe == model.recipe
    assert torch.equal(rebuilt.eval()(*inputs), model.eval()(*inputs))


def test_every_kind_of_step_is_drawn() -> None:
    drawn: Counter[str] = Counter()

    # the rarest kind is in about ten of them: not drawn anew, or one exploration in hundreds would miss it
    @settings(max_examples=600, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True)
    @given(recipes())
    def count(recipe: Recipe) -> None:
        drawn.update(step.kind for step in recipe.steps)

    count()
    assert set(drawn) == KINDS


def test_the_names_of_the_package_are_where_it_says() -> None:
    for name in fxgrow.testing.__all__:
        assert getattr(fxgrow.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fxgrow.testing.nothing
