"""In-place operations rewritten, or left alone where another view shows the mutation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.graph.operations import operations_of
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace


class Network(nn.Module):
    """Two linear maps with `body` between them, which gets the module for its own use."""

    def __init__(self, body: Callable[["Network", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu, self.norm = nn.ReLU(inplace=True), nn.BatchNorm1d(4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.first(x)))


def mutations(graph_module: fx.GraphModule) -> list[str]:
    return [node.name for node in graph_module.graph.nodes if operations_of(graph_module).written(node)]


def relu_module(model: Network, x: Tensor) -> Tensor:
    return model.relu(x) + 1


def relu_reused(model: Network, x: Tensor) -> Tensor:
    return model.relu(model.norm(model.relu(x)))


def relu_function(model: Network, x: Tensor) -> Tensor:
    return F.relu(F.dropout(x, 0.5, True, True), inplace=True)


def relu_underscore(model: Network, x: Tensor) -> Tensor:
    return torch.relu_(x)


def method(model: Network, x: Tensor) -> Tensor:
    return x.mul_(2).add_(1).clamp_(min=-1)


def later_reader(model: Network, x: Tensor) -> Tensor:
    x.mul_(2)
    return x + 1


def earlier_and_later_reader(model: Network, x: Tensor) -> Tensor:
    before = x + 1
    x.mul_(2)
    return before * x


def residual(model: Network, x: Tensor) -> Tensor:
    y = model.norm(x)
    y.add_(x)
    return model.relu(y)


def filling(model: Network, x: Tensor) -> Tensor:
    y = x * 2
    y.copy_(x[0])
    z = y + 1
    z.zero_()
    y.fill_(3.0)
    return y + z + x


def shape_reader(model: Network, x: Tensor) -> Tensor:
    y = x.view(-1, 4)
    y.add_(1)
    return y.reshape(x.shape)


@pytest.mark.parametrize(
    "body",
    [
        relu_module, relu_reused, relu_function, relu_underscore, method, later_reader, earlier_and_later_reader,
        residual, filling, shape_reader,
    ],
)  # fmt: skip
def test_in_place_operations_become_functional(body: Callable[[Network, Tensor], Tensor]):
    before = fx.symbolic_trace(Network(body))
    result = FunctionalizeInplace()(before)
    assert mutations(before)
    assert mutations(result.graph_module) == []
    assert result.modified
    fxgrow.verify(before, result.graph_module, torch.randn(3, 4))


def view_read_later(model: Network, x: Tensor) -> Tensor:
    view = x.view(-1, 4)
    x.add_(1)
    return x + view


def viewed_value_read_later(model: Network, x: Tensor) -> Tensor:
    x.view(-1, 2).add_(1)
    return x


def chunk_of_a_value_read_later(model: Network, x: Tensor) -> Tensor:
    left, _ = x.chunk(2, dim=1)
    left.mul_(3)
    return x


def passed_through_a_module(model: Network, x: Tensor) -> Tensor:
    nn.Identity()
    F.dropout(x, 0.5, False).mul_(2)
    return x


def no_namesake(model: Network, x: Tensor) -> Tensor:
    return x.random_(3)


@pytest.mark.parametrize(
    "body",
    [
        view_read_later, viewed_value_read_later, chunk_of_a_value_read_later, passed_through_a_module, no_namesake,
    ],
)  # fmt: skip
def test_mutations_that_another_view_shows_are_left_alone(body: Callable[[Network, Tensor], Tensor]):
    before = fx.symbolic_trace(Network(body))
    result = FunctionalizeInplace()(before)
    assert mutations(result.graph_module) == mutations(before)
    assert not result.modified
    outputs = []
    for graph_module in (before, result.graph_module):
        torch.manual_seed(0)
        with torch.no_grad():  # autograd allows some of these nowhere
            outputs.append(graph_module(torch.ones(3, 4)))
    assert torch.equal(*outputs)


def test_a_parameter_that_is_written_stays_written():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.add(self.steps, x.sum() * 0 + 1, out=self.steps)

    before = fx.symbolic_trace(Counter())
    assert not FunctionalizeInplace()(before).modified


def test_a_result_that_would_change_its_dtype_is_left_alone():
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.half().add_(x)

    before = fxgrow.trace(fx.symbolic_trace(Cast()), torch.randn(3, 4))
    assert mutations(before) == ["add_"]


def test_the_flag_of_the_users_module_is_not_touched():
    model = Network(relu_reused)
    result = FunctionalizeInplace()(fx.symbolic_trace(model)).graph_module
    assert model.relu.inplace
    assert result.get_submodule("relu") is not model.relu
    assert result.get_submodule("norm") is model.norm


def half_safe(model: Network, x: Tensor) -> Tensor:
    view = x.view(-1, 4)
    return model.relu(x) + view + model.relu(model.norm(x))


def test_a_module_with_one_safe_and_one_unsafe_call_becomes_two():
    before = fx.symbolic_trace(Network(half_safe))
    after = FunctionalizeInplace()(before).graph_module
    assert mutations(after) == ["relu"]
    assert [node.target for node in after.graph.nodes if node.name.startswith("relu")] == ["relu", "relu_0"]
    fxgrow.verify(before, after, torch.randn(3, 4))


@pytest.mark.parametrize("body", [relu_reused, earlier_and_later_reader, half_safe])
def test_it_is_idempotent(body: Callable[[Network, Tensor], Tensor]):
    once = FunctionalizeInplace()(fx.symbolic_trace(Network(body))).graph_module
    assert not FunctionalizeInplace()(once).modified


def test_an_input_of_the_graph_keeps_its_value():
    result = FunctionalizeInplace()(fx.symbolic_trace(nn.Sequential(nn.ReLU(inplace=True)))).graph_module
    x = torch.tensor([-1.0, 1.0])
    assert result(x).tolist() == [0.0, 1.0]
    assert x.tolist() == [-1.0, 1.0]
