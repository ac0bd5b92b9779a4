"""Which operations count as mutations, and which values may share memory."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxgrow.graph.aliasing import allocates, reads_only_shape
from fxgrow.graph.inplace import mutated_value


def only_call(function: Callable[..., Any], *more: Any, **options: Any) -> tuple[fx.GraphModule, fx.Node]:
    """Return a graph with one call of a function, a method (by name) or a module on its input."""
    graph, root = fx.Graph(), nn.Module()
    value = graph.placeholder("x")
    if isinstance(function, nn.Module):
        root.add_module("module", function)
        node = graph.call_module("module", (value, *more), options)
    elif isinstance(function, str):
        node = graph.call_method(function, (value, *more), options)
    else:
        node = graph.call_function(function, (value, *more), options)
    graph.output(node)
    return fx.GraphModule(root, graph), node


MUTATING = [
    only_call(nn.ReLU(inplace=True)),
    only_call(F.relu, inplace=True),
    only_call(F.relu, True),
    only_call(F.dropout, 0.5, True, True),
    only_call(operator.iadd, 1),
    only_call(operator.setitem, 0, 1),
    only_call("add_", 1),
    only_call(torch.relu_),
    only_call(torch.ops.aten.relu_.default),
]
PURE = [
    only_call(nn.ReLU()),
    only_call(F.relu),
    only_call(F.dropout, 0.5, True),
    only_call(operator.add, 1),
    only_call(operator.and_, 1),
    only_call("__add__", 1),
    only_call(torch.ops.aten.relu.default),
]


@pytest.mark.parametrize("case", MUTATING, ids=str)
def test_mutations_are_recognised(case: tuple[fx.GraphModule, fx.Node]):
    graph_module, node = case
    assert mutated_value(graph_module, node) is next(iter(graph_module.graph.nodes))


@pytest.mark.parametrize("case", PURE, ids=str)
def test_pure_operations_are_no_mutations(case: tuple[fx.GraphModule, fx.Node]):
    assert mutated_value(*case) is None


def test_an_output_argument_is_mutated():
    graph_module, node = only_call(torch.add, 1)
    node.update_kwarg("out", node.args[0])
    assert mutated_value(graph_module, node) is node.args[0]


VIEWS = [
    only_call("view", 3, 2), only_call("reshape", 3, 2), only_call("transpose", 0, 1), only_call("chunk", 2),
    only_call("expand", 2, 3), only_call("contiguous"), only_call("detach"), only_call("to", torch.float32),
    only_call(operator.getitem, 0), only_call(torch.flatten), only_call(torch.squeeze),
    only_call(F.dropout, 0.5, False),
    only_call(nn.Identity()), only_call(nn.Flatten()), only_call(nn.Dropout(0.0)), only_call(nn.ReLU(inplace=True)),
]  # fmt: skip
FRESH = [
    only_call(operator.add, 1), only_call("mul", 2), only_call(torch.cat), only_call(F.gelu), only_call(nn.ReLU()),
    only_call(nn.Linear(3, 3)), only_call(nn.LayerNorm(3)), only_call("softmax", -1), only_call("clone"),
]  # fmt: skip


@pytest.mark.parametrize("case", VIEWS, ids=str)
def test_whatever_may_return_its_input_may_share_memory(case: tuple[fx.GraphModule, fx.Node]):
    assert not allocates(*case)


@pytest.mark.parametrize("case", FRESH, ids=str)
def test_what_allocates_shares_no_memory(case: tuple[fx.GraphModule, fx.Node]):
    assert allocates(*case)


@pytest.mark.parametrize("case", [*VIEWS, *FRESH], ids=str)
def test_no_operation_that_is_said_to_allocate_returns_a_view(case: tuple[fx.GraphModule, fx.Node]):
    graph_module, node = case
    if node.target is torch.cat:
        return
    x = torch.ones(2, 3)
    result = graph_module.eval()(x)
    result = result[0] if isinstance(result, tuple | list) else result
    shares = isinstance(result, Tensor) and result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert not (shares and allocates(graph_module, node))


def test_reading_the_shape_is_no_reading_of_values():
    assert reads_only_shape(only_call("size", 0)[1])
    assert reads_only_shape(only_call(getattr, "shape")[1])
    assert not reads_only_shape(only_call("sum")[1])
