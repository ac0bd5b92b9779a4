"""The networkx view is the graph, decides on residual edges, and counts depth."""

import networkx as nx
import pytest
import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.network import check_residual_edge, depth_map, to_networkx
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers


def traced() -> fx.GraphModule:
    graph_module = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)))
    propagate_shapes(graph_module, torch.randn(2, 3))
    return graph_module


def test_the_view_has_every_node_and_every_edge() -> None:
    network = to_networkx(traced())
    assert list(network) == ["input_1", "_0", "_1", "_2", "output"]
    assert list(network.edges) == [("input_1", "_0"), ("_0", "_1"), ("_1", "_2"), ("_2", "output")]
    assert nx.is_directed_acyclic_graph(network)
    assert network.nodes["_0"]["shape"] == (2, 4)


def test_pseudo_layers_and_residual_edges_are_marked() -> None:
    grown = InsertPseudoLayers({"0": (0, 2)})(traced()).graph_module
    network = to_networkx(grown)
    assert sum(attributes["residual_edge"] for _, attributes in network.nodes(data=True)) == 1
    assert {a["pseudo_layer"] for _, a in network.nodes(data=True)} == {None, "0_pseudo_0"}


def test_an_edge_that_closes_a_cycle_is_refused() -> None:
    with pytest.raises(PassError, match="_2 -> _0: the edge would close a cycle"):
        check_residual_edge(to_networkx(traced()), "_2", "_0")


def test_an_edge_between_two_shapes_is_refused() -> None:
    network = to_networkx(traced())
    check_residual_edge(network, "input_1", "_2", same_shape=True)
    with pytest.raises(PassError, match=r"what it reads has shape \(2, 3\), and what it is added to \(2, 4\)"):
        check_residual_edge(network, "input_1", "_0", same_shape=True)


def test_depth_counts_pseudo_layers_in_series_and_not_those_beside_each_other() -> None:
    base = traced()
    assert depth_map(base) == {"0": [0] * 4, "2": [0] * 3}
    for operator, depth in (("serial", 2), ("branch", 1)):
        grown = InsertPseudoLayers({"0": (1, 2)}, operator)(base).graph_module
        assert depth_map(grown)["0"] == [0, 1, 1, 0]
        assert max(depth_map(InsertPseudoLayers({"0": (2,)}, operator)(grown).graph_module)["0"]) == depth


def test_depth_adds_what_was_grown_inside_a_pseudo_layer() -> None:
    grown = InsertPseudoLayers({"0": (1, 2)})(traced()).graph_module
    nested = InsertPseudoLayers({"0_pseudo_0.fc1": (0,), "0_pseudo_0.fc2": (0, 1)})(grown).graph_module
    assert depth_map(nested)["0"] == [0, 3, 3, 0]
    assert depth_map(nested)["0_pseudo_0.fc1"] == [1, 0]
