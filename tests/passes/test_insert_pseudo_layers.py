"""Insertion at sites that read each other's values."""

import pytest
import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.operators import available_operators
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.primitives.residual import add_rows


@pytest.mark.parametrize("operator", available_operators())
def test_a_site_that_reads_a_grown_value_reads_the_sum(operator) -> None:
    torch.manual_seed(0)
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)).double())
    grown = InsertPseudoLayers({"0": (0, 2), "1": (1,), "2": (0, 1, 2)}, operator=operator)(traced).graph_module
    x = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(grown(x), traced(x), rtol=0, atol=1e-12)
    edges = [node for node in grown.graph.nodes if node.target is add_rows]
    assert len(edges) == 3
    second = next(node for node in grown.graph.nodes if node.target == "1")
    assert second.args == (edges[0],)


def test_a_crash_is_told_in_a_line_that_names_the_pass_and_not_all_of_its_rows(monkeypatch) -> None:
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 600), nn.Linear(600, 5)))
    monkeypatch.setattr("fxgrow.passes.insert_pseudo_layers.find_sites", lambda graph_module: 1 / 0)
    with pytest.raises(PassError, match=r"insert-pseudo-layers.*it crashed with ZeroDivisionError") as caught:
        InsertPseudoLayers({"0": tuple(range(600))})(traced)
    assert len(str(caught.value)) < 300
