"""Pseudo-layers beside each other merge into one: same function, one matrix product, the optimizer's state kept."""

import copy

import pytest
import torch

import fxgrow
from fxgrow.passes import parse
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.merge_branches import MergeBranches
from fxgrow.primitives.modules import parameter_count
from fxgrow.primitives.residual import add_rows
from fxgrow.record.annotations import annotation
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import assert_same_function, sample_models

ROWS = ((0, 3), (1, 3, 5), (0, 1, 2, 3, 4, 5))


def grown(name: str, site: str, *operators: str) -> torch.fx.GraphModule:
    """A sample model to whose site one pseudo-layer after the other was added, all moved from where they began."""
    model, inputs = sample_models()[name].make(dtype=torch.float64)
    result = fxgrow.trace(model, inputs)
    for operator, rows in zip(operators, ROWS, strict=False):
        result = InsertPseudoLayers({site: rows}, operator, seed=len(rows))(result).graph_module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in result.named_parameters():
            if "_pseudo_" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 5)
    return result


@pytest.mark.parametrize("operator", ["branch", "gated", "signed", "paper"])
@pytest.mark.parametrize(
    ("name", "site"),
    [("mlp", "0"), ("convolutions", "0"), ("convolutions", "2"), ("convolutions", "5"), ("reused", "mix")],
)
def test_function_and_old_gradients_are_the_same(name: str, site: str, operator: str) -> None:
    before = grown(name, site, operator, operator, operator)
    after = MergeBranches()(before).graph_module
    assert_same_function(before, after)
    assert parameter_count(after) == parameter_count(before)
    assert {key.split(".")[0] for key in after.state_dict() if "_pseudo_" in key} == {f"{site}_pseudo_0"}


def test_one_product_and_one_residual_edge_are_left() -> None:
    after = MergeBranches()(grown("mlp", "0", "branch", "branch")).graph_module
    new = [node.target for node in after.graph.nodes if "pseudo_layer" in annotation(node).get("provenance", {})]
    assert new == ["0_pseudo_0.branch", "0_pseudo_0.act", "0_pseudo_0.rows", add_rows]
    assert after.get_parameter("0_pseudo_0.branch.weight").shape == (5, 6)
    assert after.get_buffer("0_pseudo_0.rows").tolist() == [0, 3, 1, 3, 5]
    (edge,) = [n for n in after.graph.nodes if annotation(n).get("provenance", {}).get("role") == "residual-edge"]
    assert annotation(edge)["provenance"]["merged"] == [0, 1]


def test_shapes_on_the_nodes_are_right() -> None:
    after = MergeBranches()(grown("mlp", "0", "branch", "branch")).graph_module
    (node,) = [n for n in after.graph.nodes if n.target == "0_pseudo_0.branch"]
    assert node.meta["tensor_meta"].shape == (2, 5)


@pytest.mark.parametrize("operators", [("serial", "serial"), ("branch", "gated"), ("branch",), ()])
def test_what_is_not_alike_is_left_alone(operators: tuple[str, ...]) -> None:
    assert not MergeBranches()(grown("mlp", "0", *operators)).modified


def test_a_pseudo_layer_inside_of_which_something_grew_is_left_alone() -> None:
    before = grown("mlp", "0", "branch", "branch", "branch")
    nested = InsertPseudoLayers({"0_pseudo_2.branch": (0,)}, "branch")(before).graph_module
    after = MergeBranches()(nested).graph_module
    assert_same_function(nested, after)
    assert "0_pseudo_2.branch_pseudo_0.branch.weight" in after.state_dict()
    assert "0_pseudo_1.branch.weight" not in after.state_dict()


def test_a_serial_layer_in_between_stays_where_it_is() -> None:
    before = grown("mlp", "2", "branch", "serial", "branch")
    assert_same_function(before, MergeBranches()(before).graph_module)


def test_the_pass_is_idempotent_and_replays_from_the_edit_log() -> None:
    before = grown("convolutions", "0", "gated", "gated")
    after = MergeBranches()(before).graph_module
    assert not MergeBranches()(after).modified
    assert record_of(after).edits[-1] == "merge-branches"
    assert digest(parse("merge-branches")(before).graph_module) == digest(after)


@pytest.mark.parametrize(("name", "site", "shape"), [("mlp", "0", (6,)), ("convolutions", "5", (4, 9, 9))])
@pytest.mark.parametrize("operator", ["branch", "gated"])
def test_training_goes_on_as_it_would_have(name: str, site: str, shape: tuple[int, ...], operator: str) -> None:
    apart = grown(name, site, operator, operator).eval()
    optimizer = torch.optim.AdamW(apart.parameters(), lr=0.01)
    x = torch.randn(4, *shape, dtype=torch.float64)

    def train(model: torch.fx.GraphModule) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    train(apart)
    parameters = {name: p.detach().clone() for name, p in apart.named_parameters()}
    state = copy.deepcopy(optimizer.state_dict())
    merged = fxgrow.merge_branches(apart, optimizer=optimizer)
    assert {id(p) for p in merged.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    train(merged)
    found = merged(x)

    with torch.no_grad():
        for name, parameter in apart.named_parameters():
            parameter.copy_(parameters[name])
    optimizer = torch.optim.AdamW(apart.parameters(), lr=0.01)
    optimizer.load_state_dict(state)
    train(apart)
    torch.testing.assert_close(found, apart(x), rtol=1e-9, atol=1e-9)


def test_the_new_parameters_are_listed() -> None:
    after = fxgrow.merge_branches(grown("mlp", "0", "branch", "branch"))
    assert record_of(after).new_parameters == ("0_pseudo_0.branch.weight", "0_pseudo_0.branch.bias")
