"""The published +- pair folds into one map: same function, and the same training at twice the learning rate."""

import copy

import pytest
import torch

import fxgrow
from fxgrow.passes import parse
from fxgrow.passes.fold_pairs import FoldPairs
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.digest import digest
from fxgrow.record.record import Growth, GrowthEvent, record_of, update_record
from fxgrow.testing import assert_same_function, sample_models


def grown(name: str = "mlp", operator: str = "paper", **rows: tuple[int, ...]) -> torch.fx.GraphModule:
    """A grown sample model whose pseudo-layers have left the point of insertion."""
    model, inputs = sample_models()[name].make(dtype=torch.float64)
    traced = fxgrow.trace(model, inputs)
    result = InsertPseudoLayers({key.lstrip("_"): value for key, value in rows.items()}, operator)(traced).graph_module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in result.named_parameters():
            if "_pseudo_" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 5)
    return result


@pytest.mark.parametrize(
    ("name", "rows"),
    [("mlp", {"_0": (1, 5), "_2": (0,)}), ("convolutions", {"_0": (2, 7), "_2": (3,)}), ("reused", {"mix": (0, 2)})],
)
def test_function_and_old_gradients_are_the_same(name: str, rows: dict[str, tuple[int, ...]]) -> None:
    before = grown(name, **rows)
    after = FoldPairs()(before).graph_module
    assert_same_function(before, after)
    assert not [key for key in after.state_dict() if ".plus." in key or ".minus." in key]


def test_the_pair_becomes_one_map_with_the_sum_of_the_weights() -> None:
    before = grown(_0=(1, 5))
    after = FoldPairs()(before).graph_module
    targets = [str(node.target) for node in after.graph.nodes if "_pseudo_" in str(node.target)]
    assert targets == ["0_pseudo_0.branch", "0_pseudo_0.act", "0_pseudo_0.rows"]
    total = before.get_parameter("0_pseudo_0.plus.weight") + before.get_parameter("0_pseudo_0.minus.weight")
    assert torch.equal(after.get_parameter("0_pseudo_0.branch.weight"), total)
    pair = sum(p.numel() for p in before.get_submodule("0_pseudo_0").parameters())
    assert parameter_count(before) - parameter_count(after) == pair // 2


@pytest.mark.parametrize("operator", ["branch", "signed", "gated", "serial"])
def test_other_operators_are_left_alone(operator: str) -> None:
    before = grown(operator=operator, _0=(1, 5))
    assert not FoldPairs()(before).modified


def test_a_pair_inside_of_which_something_grew_is_left_alone() -> None:
    nested = InsertPseudoLayers({"0_pseudo_0.plus": (0,)}, "branch")(grown(_0=(1, 5))).graph_module
    assert not FoldPairs()(nested).modified


def test_the_pass_is_idempotent_and_replays_from_the_edit_log() -> None:
    before = grown(_0=(1, 5))
    after = FoldPairs()(before).graph_module
    assert not FoldPairs()(after).modified
    assert record_of(after).edits[-1] == "fold-pairs"
    assert digest(parse("fold-pairs")(before).graph_module) == digest(after)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_training_goes_on_as_it_would_have_at_twice_the_learning_rate(kind: type[torch.optim.Optimizer]) -> None:
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {"weight_decay": 0.0}
    pair = grown(_0=(1, 5)).eval()
    new = [p for name, p in pair.named_parameters() if "_pseudo_" in name]
    optimizer = kind([{"params": new}], lr=0.01, **options)
    x = torch.randn(16, 6, dtype=torch.float64)

    def train(model: torch.fx.GraphModule, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    train(pair, 5)
    state = copy.deepcopy(optimizer.state_dict())
    folded = fxgrow.fold_pairs(pair, optimizer=optimizer)
    assert len(optimizer.param_groups[0]["params"]) == 2
    optimizer.param_groups[0]["lr"] = 0.02
    train(folded, 20)

    optimizer = kind([{"params": new}], lr=0.01, **options)
    optimizer.load_state_dict(state)
    train(pair, 20)
    torch.testing.assert_close(folded(x), pair(x), rtol=1e-10, atol=1e-10)


def test_the_history_names_the_operator_that_is_left() -> None:
    before = grown(_0=(1, 5))
    line = Growth("pseudo-layer", "0", 28, 2, "0_pseudo_0", "paper")
    update_record(before, history=(GrowthEvent(0, 28, (line,), 0),))
    (event,) = record_of(FoldPairs()(before).graph_module).history
    assert (event.growths[0].operator, event.growths[0].parameters) == ("branch", 14)
