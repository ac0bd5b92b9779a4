"""A residual edge keeps the function, closes no cycle, and connects equal shapes."""

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.passes import parse
from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass, sample_models


class Parallel(nn.Module):
    """Two branches that do not depend on each other, the second read last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x).tanh()
        return self.head(first * self.second(x).sin())


def traced(name: str, dtype: torch.dtype = torch.float64) -> torch.fx.GraphModule:
    model, inputs = sample_models()[name].make(dtype=dtype)
    return fxgrow.trace(model, inputs)


def parallel() -> torch.fx.GraphModule:
    return fxgrow.trace(Parallel().double(), torch.randn(3, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("vit", "blocks.0", "blocks.1"),
        ("vit", "blocks.0.attn", "blocks.1.mlp.fc2"),
        ("attention", "x", "down"),
        ("convolutions", "1", "2"),
        ("attention", "norm1", "proj"),
    ],
)
def test_it_keeps_what_a_pass_promises(name: str, source: str, target: str) -> None:
    check_pass(AddResidualEdge(source, target), traced(name))


def test_the_graph_has_one_gate_with_one_parameter_per_channel() -> None:
    result = AddResidualEdge("blocks.0", "blocks.1")(traced("vit")).graph_module
    (gate,) = [node for node in result.graph.find_nodes(op="get_attr") if node.target.endswith(".gate")]
    (product,) = gate.users
    (edge,) = product.users
    assert gate.target == "blocks.1_edge_0.gate"
    assert result.get_parameter(gate.target).tolist() == [0.0] * 16
    assert edge.args[0] is product.args[0].args[0] or edge.args[1] is product
    assert list(edge.args[0].users) == [edge]


def test_the_gate_of_a_convolution_runs_along_its_channels() -> None:
    result = AddResidualEdge("1", "2")(traced("convolutions")).graph_module
    assert result.get_parameter("2_edge_0.gate").shape == (8, 1, 1)


def test_an_open_gate_adds_the_source() -> None:
    before = traced("attention").eval()
    after = AddResidualEdge("x", "down")(before).graph_module
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        after.get_parameter("down_edge_0.gate").fill_(1.0)
    found = after(x)
    before.down.register_forward_hook(lambda _, __, out: out + x)
    torch.testing.assert_close(found, before(x))


def test_the_gate_moves_at_the_first_step_and_is_in_the_right_group() -> None:
    before = traced("attention")
    biases = [p for p in before.parameters() if p.dim() == 1]
    weights = [p for p in before.parameters() if p.dim() > 1]
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0}], lr=0.01)
    after = fxgrow.add_residual_edge(before, source="x", target="down", optimizer=optimizer)
    gate = after.get_parameter("down_edge_0.gate")
    assert any(parameter is gate for parameter in optimizer.param_groups[1]["params"])
    after(torch.randn(2, 5, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert bool((gate != 0).all())


def test_the_record_lists_the_gate_and_replays() -> None:
    before = traced("vit")
    after = fxgrow.add_residual_edge(before, source="blocks.0", target="blocks.1", context={"epoch": 2})
    record = record_of(after)
    assert record.new_parameters == ("blocks.1_edge_0.gate",)
    (event,) = record.history
    assert (event.parameters_after - event.parameters_before, event.context) == (16, {"epoch": 2})
    (edit,) = record.edits
    assert digest(parse(edit)(before).graph_module) == digest(after)
    assert record.base_digest == digest(before)


@pytest.mark.parametrize(("source", "target"), [("first", "second"), ("second", "first")])
def test_parallel_branches_are_connected_either_way(source: str, target: str) -> None:
    before = parallel()
    after = check_pass(AddResidualEdge(source, target), before).graph_module
    with torch.no_grad():
        after.get_parameter(f"{target}_edge_0.gate").fill_(1.0)
    x = torch.randn(3, 6, dtype=torch.float64)
    values = {"first": before.first(x), "second": before.second(x)}
    values[target] = values[target] + values[source]
    torch.testing.assert_close(after(x), before.head(values["first"].tanh() * values["second"].sin()))


class Ordered(Parallel):
    """The same, whose branches mind which one runs first."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other, self.last = one, other, nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.one(self.first(x)).tanh()
        return self.head(first * self.last(self.other(self.second(x))))


@pytest.mark.parametrize("modules", [(nn.Dropout(), nn.Dropout()), (nn.BatchNorm1d(8),) * 2], ids=["random", "shared"])
def test_draws_and_statistics_keep_their_order(modules: tuple[nn.Module, nn.Module]) -> None:
    before = fxgrow.trace(Ordered(*modules).double(), torch.randn(3, 6, dtype=torch.float64))
    with pytest.raises(PassError, match="draw random numbers or move the same statistics"):
        AddResidualEdge("last", "first")(before)
    check_pass(AddResidualEdge("first", "last"), before)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("blocks.1", "blocks.0", "would close a cycle"),
        ("blocks.0.mlp.fc1", "blocks.1", r"has shape \(2, 5, 64\)"),
        ("blocks.0", "blocks.0", "both ends are one value"),
        ("blocks.7", "blocks.1", "no operation of the graph belongs to"),
    ],
)
def test_an_edge_that_may_not_be_is_refused(source: str, target: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        AddResidualEdge(source, target)(traced("vit"))


def test_a_value_that_is_mutated_later_is_refused() -> None:
    model, inputs = sample_models()["convolutions"].make()
    graph_module = torch.fx.symbolic_trace(model)
    propagate_shapes(graph_module, inputs)
    with pytest.raises(PassError, match=r"overwritten in place.*functionalize-inplace"):
        AddResidualEdge("1", "3")(graph_module)


def test_a_module_that_is_called_twice_has_no_single_value() -> None:
    with pytest.raises(PassError, match="called 2 times"):
        AddResidualEdge("mix", "block")(traced("reused"))


def test_edges_add_no_depth() -> None:
    after = fxgrow.add_residual_edge(traced("vit"), source="blocks.0", target="blocks.1.mlp.fc2")
    assert set(fxgrow.depth_map(after)["blocks.1.mlp.fc2"]) == {0}
