"""Shapes and FLOPs against real runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils.flop_counter import FlopCounterMode

from fxgrow.errors import TraceError
from fxgrow.execution.shapes import complete_shapes, example_inputs_of, has_shape, propagate_shapes
from fxgrow.record.annotations import annotation


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.convolution = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)

    def forward(self, ids: Tensor, mask: Tensor, gain: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.embedding(ids) * mask.unsqueeze(-1)
        batch, length, _ = x.shape
        x = self.drop(self.norm(self.convolution(x.transpose(1, 2))))
        left, right = x.reshape(batch, 6, length).chunk(2, dim=2)
        x = F.scaled_dot_product_attention(left, right, right)
        return self.head(x.mean(2) * gain), {"features": x}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([[1, 2, 3, 6], [0, 1, 2, 3]]), torch.ones(2, 4, dtype=torch.bool), torch.randn(2, 1)


def network() -> fx.GraphModule:
    return fx.symbolic_trace(Network())


def test_shapes_are_those_of_a_real_run():
    ours, theirs = network(), network()
    propagate_shapes(ours, inputs())
    ShapeProp(theirs).propagate(*inputs())
    for mine, reference in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
        assert mine.meta.get("tensor_meta") == reference.meta.get("tensor_meta")
        assert mine.meta["type"] == reference.meta["type"]


def test_flops_are_those_of_the_flop_counter_on_a_real_run():
    graph_module = network()
    propagate_shapes(graph_module, inputs())
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        graph_module.eval()(*inputs())
    assert sum(annotation(node).get("flops", 0) for node in graph_module.graph.nodes) == counter.get_total_flops() > 0


def test_nothing_is_run_and_nothing_moves():
    graph_module, given = network().train(), inputs()
    state = {name: value.clone() for name, value in graph_module.state_dict().items()}
    random = torch.get_rng_state()
    propagate_shapes(graph_module, given)
    assert all(torch.equal(value, state[name]) for name, value in graph_module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in graph_module.modules())
    assert not any(isinstance(parameter, torch._subclasses.FakeTensor) for parameter in graph_module.parameters())


def test_shapes_come_from_the_placeholders_when_no_inputs_are_given():
    graph_module = network()
    propagate_shapes(graph_module, inputs())
    before = [node.meta.get("tensor_meta") for node in graph_module.graph.nodes]
    for node in graph_module.graph.nodes:
        if node.op != "placeholder":
            node.meta = {}
    propagate_shapes(graph_module)
    assert [node.meta.get("tensor_meta") for node in graph_module.graph.nodes] == before


def test_only_nodes_without_shapes_are_evaluated():
    graph_module = network()
    propagate_shapes(graph_module, inputs())
    before = {node: (node.meta.get("tensor_meta"), node.meta["type"]) for node in graph_module.graph.nodes}
    kept = {node: dict(node.meta) for node in graph_module.graph.nodes if node.name not in ("reshape", "chunk", "add")}
    for node in graph_module.graph.nodes:
        if node not in kept:
            node.meta = {}
    complete_shapes(graph_module)
    assert {node: (node.meta.get("tensor_meta"), node.meta["type"]) for node in graph_module.graph.nodes} == before
    named = {node.name: node for node in graph_module.graph.nodes}
    assert named["linear" if "linear" in named else "head"].meta == kept[named["head"]]


def test_completing_ten_nodes_of_a_long_graph_evaluates_only_them(monkeypatch: pytest.MonkeyPatch):
    graph = fx.Graph()
    value = graph.placeholder("x")
    for _ in range(10_000):
        value = graph.call_function(torch.add, (value, 1))
    graph.output(value)
    graph_module = fx.GraphModule(nn.Module(), graph)
    propagate_shapes(graph_module, torch.ones(2))
    evaluated: list[object] = []
    for node in list(graph.nodes)[500:510]:
        node.meta = {}
    original = torch.fx.Interpreter.call_function
    monkeypatch.setattr(
        torch.fx.Interpreter,
        "call_function",
        lambda self, target, args, kwargs: evaluated.append(target) or original(self, target, args, kwargs),
    )
    complete_shapes(graph_module)
    assert len(evaluated) == 10
    assert all(has_shape(node) for node in graph.nodes)


def test_a_value_that_is_known_may_be_overwritten_in_place() -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(nn.LayerNorm(4), nn.ReLU(inplace=True)))
    propagate_shapes(graph_module, torch.ones(2, 4))
    last = next(node for node in graph_module.graph.nodes if node.target == "1")
    last.meta = {}
    complete_shapes(graph_module)  # the norm's value requires grad, and is no leaf
    assert last.meta["tensor_meta"].shape == (2, 4)


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].sum(0, keepdim=True) if x.sum() > 0 else x[0]


def test_a_leaf_whose_control_flow_depends_on_values_gets_a_shape():
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    model = nn.Sequential(nn.Linear(4, 4), DataDependent())
    graph_module = fx.GraphModule(model, Tracer().trace(model))
    propagate_shapes(graph_module, torch.randn(3, 4))
    assert graph_module.graph.output_node().meta["tensor_meta"].shape == (1,)


def test_example_inputs_have_the_shapes_dtypes_and_ranges_of_the_traced_ones():
    graph_module = network()
    propagate_shapes(graph_module, inputs())
    ids, mask, gain = example_inputs_of(graph_module, seed=3, batch_size=50)
    assert (ids.shape, ids.dtype, ids.min(), ids.max()) == ((50, 4), torch.int64, 0, 6)
    assert (mask.shape, mask.dtype) == ((50, 4), torch.bool)
    assert (gain.shape, gain.dtype) == ((50, 1), torch.float32)
    graph_module(ids, mask, gain)


def test_example_inputs_depend_on_the_seed_alone():
    graph_module = network()
    propagate_shapes(graph_module, inputs())
    random = torch.get_rng_state()
    first, again, other = (example_inputs_of(graph_module, seed) for seed in (1, 1, 2))
    assert torch.equal(random, torch.get_rng_state())
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[2], other[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.ones(2, 3),), "0: it fails on the shapes of its inputs"),
        ((torch.ones(2, 4), torch.ones(2, 4)), "example inputs: 2 inputs were given where the graph takes 1"),
        ({"x": torch.ones(2, 4)}, "x: no input has this name; choose among input"),
        ({}, "input: an input is missing"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given: object, message: str):
    graph_module = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(TraceError) as caught:
        propagate_shapes(graph_module, given)
    assert str(caught.value).startswith(message)


def test_a_graph_without_shapes_asks_for_inputs():
    with pytest.raises(TraceError, match="input: the shape of this input is not known"):
        propagate_shapes(fx.symbolic_trace(nn.Sequential(nn.Linear(4, 2))))
