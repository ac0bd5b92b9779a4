"""What is dead, and what only looks dead."""

from collections.abc import Callable

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.execution.shapes import propagate_shapes
from fxgrow.passes.eliminate_dead_code import EliminateDeadCode
from fxgrow.testing import check_pass

Body = Callable[["Host", Tensor], object]


class Host(nn.Module):
    """Runs something whose result nobody reads."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.fc, self.spare, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.act, self.drop = nn.GELU(), nn.Dropout(0.5)
        self.act_in_place = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        self.body(self, y)
        return self.norm(y)


def traced(body: Body) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(Host(body))
    propagate_shapes(graph_module, torch.zeros(3, 4))
    return graph_module


@pytest.mark.parametrize(
    "body",
    [
        lambda host, y: y + 1,
        lambda host, y: F.gelu(y.transpose(0, 1)) * 2,
        lambda host, y: host.act(y).sum(),
        lambda host, y: y.shape[0] * 2,
        lambda host, y: torch.cat((y, y.abs())),
        lambda host, y: y.chunk(2)[1],
    ],
)
def test_operations_that_nobody_reads_are_dropped(body: Body) -> None:
    result = check_pass(EliminateDeadCode(), traced(body))
    assert result.modified
    assert [node.name for node in result.graph_module.graph.nodes] == ["x", "fc", "norm", "output"]


@pytest.mark.parametrize(
    "body",
    [
        lambda host, y: y.add_(1),
        lambda host, y: F.relu(y, inplace=True),
        lambda host, y: host.act_in_place(y),
        lambda host, y: host.norm(y),
        lambda host, y: host.spare(y),
        lambda host, y: y * host.scale,
        lambda host, y: host.drop(y),
        lambda host, y: F.dropout(y, 0.5, True),
        lambda host, y: torch.bernoulli(y.sigmoid()),
        lambda host, y: torch.rand_like(y),
        lambda host, y: torch._assert(y.shape[1] == 4, "four features"),
        lambda host, y: F.batch_norm(y, host.norm.running_mean, host.norm.running_var, training=True),
        lambda host, y: foreign(y),
    ],
)
def test_what_has_an_effect_or_holds_parameters_stays(body: Body) -> None:
    graph_module = traced(body)
    kept = [node.name for node in graph_module.graph.nodes]
    result = check_pass(EliminateDeadCode(), graph_module)
    left = [node.name for node in result.graph_module.graph.nodes]
    assert "norm" in left
    assert len(left) >= 5
    assert set(left) <= set(kept)


def test_what_an_operation_with_an_effect_reads_stays_too() -> None:
    graph_module = traced(lambda host, y: F.dropout(host.act(y) * 2, 0.5, True))
    assert not EliminateDeadCode()(graph_module).modified


@fx.wrap
def foreign(x: Tensor) -> Tensor:
    return x
