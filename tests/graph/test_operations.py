"""The records of operations, held against what happens when they run: to memory, to state, to the random stream."""

import operator
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.declared import declared, reads_only_sizes
from fxgrow.graph.operations import operations_of
from fxgrow.testing import check_operations, sample_models
from fxgrow.tracing import trace


@pytest.mark.parametrize("name", list(sample_models()))
def test_whatever_a_sample_model_does_is_in_the_records(name: str) -> None:
    model, inputs = sample_models()[name].make()
    traced = trace(model, inputs)
    assert check_operations(traced, inputs) > 0
    assert check_operations(traced, inputs, lambda node: declared(traced, node)) > 0


class Applies(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Leaves(fx.Tracer):
    """Keeps every module whole but the one that applies it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, Applies)


def applied(function: Callable[..., Any]) -> fx.GraphModule:
    model = Applies(function)
    graph_module = fx.GraphModule(model, Leaves().trace(model))
    propagate_shapes(graph_module, torch.zeros(2, 4, 6))
    return graph_module


class Attention(nn.MultiheadAttention):
    """A leaf of one input, that torch does not own."""

    def __init__(self) -> None:
        super().__init__(6, 2, dropout=0.1)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x, x, x)


def last_call(graph_module: fx.GraphModule) -> fx.Node:
    return [node for node in graph_module.graph.nodes if node.op.startswith("call")][-1]


def stateful(x: Tensor) -> Tensor:
    return x * random.random()


fx.wrap("stateful")

VARIED: list[Callable[..., Any]] = [
    lambda x: x.view(2, -1), lambda x: x.reshape(-1), lambda x: x.transpose(1, 2).reshape(-1), lambda x: x[:, 0],
    lambda x: x.transpose(1, 2).contiguous(), lambda x: x.contiguous(), lambda x: x.to(torch.float32),
    lambda x: x.double(), lambda x: x.chunk(2, 1), lambda x: x.unbind(1), lambda x: x.expand(2, 4, 6), lambda x: x.mT,
    lambda x: torch.einsum("bij->bji", x), lambda x: torch.einsum("bij,bkj->bik", x, x), lambda x: x.flatten(1),
    lambda x: torch.meshgrid(x[0, 0], x[0, 1], indexing="ij"), lambda x: x.squeeze(), lambda x: x.roll(1, 0),
    lambda x: torch.cat((x, x), 1), lambda x: torch.stack((x, x)), lambda x: x @ x.mT, lambda x: x.softmax(-1),
    lambda x: x.add_(1), lambda x: torch.relu_(x), lambda x: F.elu(x, inplace=True), lambda x: operator.iadd(x, 2),
    lambda x: x[:, 0].mul_(3), lambda x: x.detach().zero_(),
    lambda x: x.masked_fill_(x > 0, 0), lambda x: torch.add(x, 1, out=x), lambda x: x.data.add_(1),
    lambda x: F.dropout(x, 0.5, True), lambda x: F.dropout(x, 0.5, False), lambda x: F.dropout(x, 0.0, True),
    lambda x: torch.bernoulli(x.sigmoid()), lambda x: torch.rand_like(x), lambda x: x.normal_(), lambda x: stateful(x),
    lambda x: F.rrelu(x, training=True), lambda x: F.alpha_dropout(x, 0.3, True), lambda x: F.gumbel_softmax(x),
    lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.2),
    lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: F.interpolate(x, scale_factor=2), lambda x: F.pad(x, (1, 1)),
    lambda x: F.unfold(x[:, None], 2), lambda x: x.cumsum(1), lambda x: x.sort(-1), lambda x: x.topk(2),
    lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2), lambda x: F.adaptive_avg_pool1d(x, 1),
    lambda x: F.normalize(x, dim=-1), lambda x: F.glu(x), lambda x: x.var(-1),
    lambda x: x.index_select(1, x.argmax(1)[0]),
    nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True), nn.Dropout(0.5), nn.Dropout(0.5, inplace=True),
    nn.ReLU(inplace=True), nn.Identity(), nn.Flatten(), nn.LayerNorm(6), nn.GroupNorm(2, 4), nn.PReLU(4), nn.RReLU(),
    nn.Conv1d(4, 3, 2), nn.LSTM(6, 5, 2, dropout=0.4), nn.GRU(6, 5), Attention(),
]  # fmt: skip


@pytest.mark.parametrize("function", VARIED)
def test_whatever_an_operation_does_is_in_its_record(function: Callable[..., Any]) -> None:
    graph_module = applied(function)
    x = torch.linspace(-2.0, 3.0, 48).reshape(2, 4, 6)
    assert check_operations(graph_module, (x,)) > 0
    assert check_operations(graph_module, (x,), lambda node: declared(graph_module, node)) > 0


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.scaled_dot_product_attention(x, x, x), {"draws": False}),
        (lambda x: F.dropout(x, 0.5, False), {"draws": False, "shares": {0}}),
        (nn.Dropout(0.5), {"draws": True, "shares": {0}, "writes": set()}),
        (nn.BatchNorm1d(4), {"moves": {"running_mean", "running_var", "num_batches_tracked"}, "draws": False}),
        (nn.Linear(6, 3), {"moves": set(), "shares": set(), "draws": False, "pointwise": False}),
        (lambda x: x.size(1), {"reads": set(), "shares": set()}),
        (lambda x: x.shape, {"reads": set(), "shares": set()}),
        (lambda x: x.transpose(1, 2).reshape(-1), {"shares": {0}}),
        (nn.GELU(), {"pointwise": True}),
        (lambda x: stateful(x), {"draws": True, "foreign": True}),
    ],
)
def test_a_record_says_no_more_than_there_is(function: Callable[..., Any], expected: dict[str, Any]) -> None:
    graph_module = applied(function)
    found = operations_of(graph_module)[last_call(graph_module)]
    assert {name: getattr(found, name) for name in expected} == expected


RECORDS = {"run": lambda graph: operations_of(graph).__getitem__, "declared": lambda graph: partial(declared, graph)}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: x + x, "add"),
        (lambda x: operator.iadd(x.clone(), x), "add"),
        (lambda x: torch.add(x, x), "add"),
        (lambda x: x.clone().add_(x), "add"),
        (lambda x: torch.ops.aten.add.Tensor(x, x), "add"),
        (lambda x: operator.imul(x.clone(), x), "mul"),
        (lambda x: torch.ops.aten.mul_.Tensor(x.clone(), x), "mul"),
        (lambda x: x.mul(2.0), "mul"),
        (lambda x: F.softmax(x, -1), "softmax"),
        (lambda x: torch.softmax(x, -1), "softmax"),
        (lambda x: x.softmax(-1), "softmax"),
        (nn.Softmax(-1), "softmax"),
        (lambda x: torch.ops.aten.softmax.int(x, -1), "softmax"),
    ],
)
def test_an_operation_is_known_by_its_name_in_torch_however_it_is_spelled(
    record: Any, function: Callable[..., Any], operation: str
) -> None:
    graph_module = applied(function)
    assert record(graph_module)(last_call(graph_module)).calls - {"_softmax"} == {operation}


def test_equal_nodes_have_equal_records_and_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = applied(lambda x: x.cummax(1)), applied(lambda x: x.cummax(1))
    expected = operations_of(first)[last_call(first)]
    monkeypatch.setattr("fxgrow.graph.operations.Observer.observe", lambda *_: pytest.fail("it ran again"))
    assert operations_of(second)[last_call(second)] == expected


def test_reading_the_shape_is_no_reading_of_values() -> None:
    for function, sizes in ((lambda x: x.size(0), True), (lambda x: x.shape, True), (lambda x: x.sum(), False)):
        assert reads_only_sizes(last_call(fx.symbolic_trace(Applies(function)))) == sizes
