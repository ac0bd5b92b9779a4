"""A grown model can be pruned by Torch-Pruning, once its residual edges are plain additions."""

import copy

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.passes import find_pass

torch_pruning = pytest.importorskip("torch_pruning", reason="needs the extra `export`")
# class token, position embedding and the norms' weights, which no layer here shares a dimension with that is pruned
pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters detected:UserWarning")


@pytest.fixture
def spread(grown) -> fx.GraphModule:
    return copy.deepcopy(find_pass("spread-residual-edges")()(grown).graph_module).requires_grad_()


def prune(graph_module: fx.GraphModule, inputs: torch.Tensor, path: str, channels: list[int]) -> None:
    module = graph_module.get_submodule(path)
    function = (
        torch_pruning.prune_linear_out_channels
        if isinstance(module, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )
    dependencies = torch_pruning.DependencyGraph().build_dependency(graph_module, example_inputs=inputs)
    group = dependencies.get_pruning_group(module, function, idxs=channels)
    assert dependencies.check_pruning_group(group)
    group.prune()


PATHS = {"convolutions": ["stem", "conv", "down", "fc1"], "transformer": ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]}


def test_layers_that_grew_can_be_pruned(architecture, spread, inputs) -> None:
    for path in PATHS[architecture]:
        before = spread.get_submodule(path).weight.shape[0]
        prune(spread, inputs, path, [0, 2])
        assert spread.get_submodule(path).weight.shape[0] == before - 2
        assert spread(inputs).shape == (len(inputs), 5)


def test_a_hidden_unit_of_a_pseudo_layer_goes_with_what_reads_it_and_with_nothing_else(spread, inputs) -> None:
    (path, *_) = (
        name.removesuffix(".fc2")
        for name, module in spread.named_modules()
        if name.endswith("_pseudo_0.fc2") and "_pseudo_0.fc1_" not in name and module.weight.shape[0] > 1
    )
    without = copy.deepcopy(spread)
    reader = without.get_submodule(f"{path}.fc2")
    with torch.no_grad():
        for name, module in without.named_modules():
            reads = name == f"{path}.fc2" or name.startswith((f"{path}.fc2_pseudo_0.branch", f"{path}.fc2_pseudo_1"))
            if reads and isinstance(module, type(reader)):
                module.weight[:, 0] = 0
    prune(spread, inputs, f"{path}.fc1", [0])
    torch.testing.assert_close(spread(inputs), without(inputs), rtol=1e-5, atol=1e-5)


def test_a_whole_grown_model_can_be_pruned_by_magnitude(architecture, spread, inputs) -> None:
    convolutions = architecture == "convolutions"
    layers = {name: m for name, m in spread.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    # A transformer's residual width stays: its norms and heads have their sizes written into the graph.
    free = [m for name, m in layers.items() if (name != "fc2" if convolutions else ".mlp.fc1" in name)]
    pruner = torch_pruning.pruner.MagnitudePruner(
        spread,
        example_inputs=inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[m for m in layers.values() if not any(m is other for other in free)],
    )
    before = sum(parameter.numel() for parameter in spread.parameters())
    pruner.step()
    assert spread(inputs).shape == (len(inputs), 5)
    assert sum(parameter.numel() for parameter in spread.parameters()) < 0.9 * before


def test_the_model_itself_is_left_as_it_was(grown, inputs) -> None:
    before = {name: value.clone() for name, value in grown.state_dict().items()}
    expected = grown(inputs)
    spread = copy.deepcopy(find_pass("spread-residual-edges")()(grown).graph_module).requires_grad_()
    (path, *_) = (p for p, site in fxgrow.find_sites(grown).items() if site.neurons > 4 and "pseudo" in p)
    prune(spread, inputs, path, [1])
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items())
    assert torch.equal(grown(inputs), expected)
