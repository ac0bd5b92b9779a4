"""What the framework does around a rewrite, and what it refuses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import PassError, PlanError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.passes import Pass
from fxgrow.record.annotations import annotation
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of

Rewrite = Callable[[fx.GraphModule], None]


@dataclass(frozen=True)
class Ad(Pass):
    """A pass with the rewrite that a test gives it."""

    rule: Rewrite = field(default=lambda _: None, compare=False, metadata={"data": True})

    name: ClassVar[str] = "ad"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Apply the rule."""
        self.rule(graph_module)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.fc(x))
        flat = y.view(-1)
        return F.relu(y, inplace=True), flat


def traced(shapes: bool = True) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(Model())
    if shapes:
        propagate_shapes(graph_module, torch.zeros(2, 3))
    return graph_module


def node_named(graph_module: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in graph_module.graph.nodes if node.name == name)


def append_function(graph_module: fx.GraphModule, after: str, function: Callable[..., Tensor]) -> fx.Node:
    """Insert ``function`` behind the node `after`, for all who read it."""
    node = node_named(graph_module, after)
    readers = list(node.users)
    with graph_module.graph.inserting_after(node):
        made = graph_module.graph.call_function(function, (node,))
    for reader in readers:
        reader.replace_input_with(node, made)
    return made


def double(graph_module: fx.GraphModule) -> None:
    append_function(graph_module, "fc", torch.neg)


def test_the_graph_that_went_in_is_left_alone_and_parameters_are_shared() -> None:
    before = traced()
    old = digest(before)
    result = Ad(double)(before)
    assert result.modified
    assert digest(before) == old != digest(result.graph_module)
    assert result.graph_module.get_parameter("fc.weight") is before.get_parameter("fc.weight")


def test_created_nodes_are_signed_and_have_shapes() -> None:
    result = Ad(double)(Ad(double)(traced()).graph_module).graph_module
    made = [node for node in result.graph.nodes if node.target is torch.neg]
    assert sorted(annotation(node)["provenance"]["edit"] for node in made) == [0, 1]
    assert {annotation(node)["provenance"]["pass_name"] for node in made} == {"ad"}
    assert [tuple(node.meta["tensor_meta"].shape) for node in made] == [(2, 4), (2, 4)]
    assert "provenance" not in annotation(node_named(result, "fc"))


def test_without_shapes_on_the_inputs_none_are_invented() -> None:
    result = Ad(double)(traced(shapes=False)).graph_module
    assert not any("tensor_meta" in node.meta for node in result.graph.nodes)


def test_only_what_modifies_is_logged_and_the_base_digest_is_that_of_the_first_edit() -> None:
    base = traced()
    unchanged = Ad()(base)
    assert not unchanged.modified
    assert record_of(unchanged.graph_module).edits == ()
    once = Ad(double)(unchanged.graph_module).graph_module
    twice = Ad(double)(once).graph_module
    assert record_of(twice).edits == ("ad", "ad")
    assert record_of(twice).base_digest == digest(base)


def test_a_refusal_passes_through_as_it_is() -> None:
    def refuse(_: fx.GraphModule) -> None:
        raise PlanError("too small", where="budget")

    with pytest.raises(PlanError, match=r"^budget: too small$"):
        Ad(refuse)(traced())


def test_a_crash_names_the_pass() -> None:
    def crash(graph_module: fx.GraphModule) -> None:
        graph_module.get_submodule("nowhere")

    with pytest.raises(PassError, match=r"^ad: it crashed with AttributeError: .*; report this to the author"):
        Ad(crash)(traced())


def _unresolved(graph_module: fx.GraphModule) -> None:
    node_named(graph_module, "fc").target = "fc_2"


def _unordered(graph_module: fx.GraphModule) -> None:
    node_named(graph_module, "norm").append(node_named(graph_module, "fc"))


def _without_output(graph_module: fx.GraphModule) -> None:
    output = graph_module.graph.output_node()
    output.args = (output.args[0][0],)  # type: ignore[index]


def _new_input(graph_module: fx.GraphModule) -> None:
    with graph_module.graph.inserting_before(node_named(graph_module, "fc")):
        graph_module.graph.placeholder("scale")


def _flatter(graph_module: fx.GraphModule) -> None:
    append_function(graph_module, "view", torch.sum)


def _other_dtype(graph_module: fx.GraphModule) -> None:
    append_function(graph_module, "view", torch.Tensor.double)


def _second_reader(graph_module: fx.GraphModule) -> None:
    _read_beside(graph_module, "norm")


def _reader_of_a_view(graph_module: fx.GraphModule) -> None:
    _read_beside(graph_module, "view")


def _read_beside(graph_module: fx.GraphModule, read: str) -> None:
    relu = node_named(graph_module, "relu")
    with graph_module.graph.inserting_after(relu):
        late = graph_module.graph.call_function(torch.mean, (node_named(graph_module, read),))
    with graph_module.graph.inserting_after(late):
        total = graph_module.graph.call_function(torch.add, (relu, late))
    graph_module.graph.output_node().replace_input_with(relu, total)


def _impossible(graph_module: fx.GraphModule) -> None:
    append_function(graph_module, "view", lambda x: x.reshape(7, 7))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (_unresolved, "ad: fc_2: nothing lies at this path"),
        (_unordered, "ad: lint: the graph is malformed"),
        (_without_output, "ad: the graph's interface: the placeholders or the structure of the output changed"),
        (_new_input, "ad: the graph's interface: the placeholders or the structure of the output changed"),
        (_flatter, "ad: the graph's outputs: output 1 was torch.float32 (8,) and is torch.float32 ()"),
        (_other_dtype, "ad: the graph's outputs: output 1 was torch.float32 (8,) and is torch.float64 (8,)"),
        (_second_reader, "relu: a value that is mutated in place has 3 readers"),
        (_reader_of_a_view, "relu: a value that is mutated in place has 3 readers"),
        (_impossible, "fails on the shapes of its inputs"),
    ],
)
def test_a_broken_invariant_is_refused_and_named(rule: Rewrite, message: str) -> None:
    before = traced()
    old = digest(before)
    with pytest.raises(PassError) as caught:
        Ad(rule)(before)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert digest(before) == old


def test_without_the_check_a_broken_invariant_goes_through() -> None:
    assert Ad(_second_reader)(traced(), check=False).modified


def test_reading_the_shape_of_a_mutated_value_is_no_new_reader() -> None:
    def read_size(graph_module: fx.GraphModule) -> None:
        with graph_module.graph.inserting_after(node_named(graph_module, "relu")):
            graph_module.graph.call_method("size", (node_named(graph_module, "norm"), 0))

    assert Ad(read_size)(traced()).modified
