"""Residual edges written as plain additions."""

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.passes import find_pass
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.primitives.residual import add_rows

Spread = find_pass("spread-residual-edges")


def grown(rows: dict[str, tuple[int, ...]]) -> fx.GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    traced = fxgrow.trace(model, torch.randn(2, 2, 5, 5, dtype=torch.float64))
    result = InsertPseudoLayers(rows)(traced).graph_module
    for parameter in result.parameters():
        nn.init.normal_(parameter)
    return result


def test_an_edge_to_some_rows_becomes_an_addition_to_all_behind_a_one_hot_matrix() -> None:
    graph_module = grown({"0": (1, 3), "2": (0, 1, 2)})
    spread = Spread()(graph_module).graph_module
    edges = spread.graph.find_nodes(op="call_function", target=add_rows)
    assert [edge.args[2] for edge in edges] == [None, None]
    assert [str(edge.args[1].target) for edge in edges] == ["0_pseudo_0.spread_0", "2_pseudo_0.fc2"]
    matrix = spread.get_parameter("0_pseudo_0.spread_0.weight")
    assert not matrix.requires_grad
    assert torch.equal(matrix.flatten(1), torch.eye(4, dtype=torch.float64)[:, [1, 3]])
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(spread(x), graph_module(x), rtol=1e-12, atol=1e-12)


def test_the_calls_of_a_reused_module_share_one_matrix() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x).tanh())

    graph_module = InsertPseudoLayers({"layer": (2,)})(fxgrow.trace(Reused(), torch.randn(2, 3))).graph_module
    spread = Spread()(graph_module).graph_module
    targets = [edge.args[1].target for edge in spread.graph.find_nodes(op="call_function", target=add_rows)]
    assert targets == ["layer_pseudo_0.spread_0"] * 2
    assert not spread.graph.find_nodes(op="get_attr")


def test_a_graph_without_shapes_is_refused_with_the_way_out() -> None:
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.GELU()))
    graph_module = InsertPseudoLayers({"0": (2,)})(traced).graph_module
    with pytest.raises(PassError, match=r"0_pseudo_0.rows: the shape of 1 is not known; trace the model"):
        Spread()(graph_module)
