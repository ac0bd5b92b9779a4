"""Passes that break a promise on purpose, and the published width operators: what is checked is caught."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torch.fx as fx
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import VerificationError
from fxgrow.passes import Pass
from fxgrow.passes import registry as registry_module
from fxgrow.primitives.modules import add_module
from fxgrow.testing import assert_same_function, check_pass, sample_models


@dataclass(frozen=True)
class Wrong(Pass):
    """A pass with the wrong rule that a test gives it."""

    rule: Callable[[fx.GraphModule], Any] = field(default=lambda _: None, compare=False, metadata={"data": True})

    name: ClassVar[str] = "wrong"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Apply the rule."""
        self.rule(graph_module)


def append(graph_module: fx.GraphModule, function: Callable[..., Tensor], *arguments: Any) -> fx.Node:
    output = graph_module.graph.output_node()
    value = output.args[0]
    with graph_module.graph.inserting_before(output):
        made = graph_module.graph.call_function(function, (value, *arguments))
    output.args = (made,)
    return made


def negate(graph_module: fx.GraphModule) -> None:
    append(graph_module, torch.neg)


def scale_gradients(graph_module: fx.GraphModule) -> None:
    """Leave the output as it is and halve every gradient."""
    append(graph_module, half_gradient)


def half_gradient(x: Tensor) -> Tensor:
    return x / 2 + x.detach() / 2


def detach_in_train_mode(graph_module: fx.GraphModule) -> None:
    add_module(graph_module, "extra_dropout", nn.Dropout(0.5).train(graph_module.training))
    output = graph_module.graph.output_node()
    with graph_module.graph.inserting_before(output):
        output.args = (graph_module.graph.call_module("extra_dropout", output.args),)


def change_shared_module(graph_module: fx.GraphModule) -> None:
    graph_module.get_submodule("3").p = 0.5


def move_random_state(graph_module: fx.GraphModule) -> None:
    torch.rand(1)


def copy_parameters(graph_module: fx.GraphModule) -> None:
    graph_module.add_module("0", copy.deepcopy(graph_module.get_submodule("0")))


def drop_parameters(graph_module: fx.GraphModule) -> None:
    bare = nn.Linear(6, 12, bias=False, device="meta")  # whose initialisation draws nothing
    bare.weight = graph_module.get_parameter("0.weight")
    graph_module.add_module("0", bare)


def hide_parameters(graph_module: fx.GraphModule) -> None:
    """Add a parameter that no created node reads."""
    graph_module.register_parameter("hidden", nn.Parameter(torch.zeros(1)))
    append(graph_module, torch.mul, 1)


def grow_for_ever(graph_module: fx.GraphModule) -> None:
    append(graph_module, torch.mul, 1)


def lie_about_shapes(graph_module: fx.GraphModule) -> None:
    first = next(node for node in graph_module.graph.nodes if node.op == "call_module")
    first.meta["tensor_meta"] = first.meta["tensor_meta"]._replace(shape=torch.Size([2, 99]))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (negate, "output: it differs by"),
        (scale_gradients, "gradient of .*: it differs by"),
        (detach_in_train_mode, r"it differs by .*\(train mode"),
        (change_shared_module, "it changes the graph that went in"),
        (move_random_state, "it changes the graph that went in"),
        (copy_parameters, "the shared parameters are copies"),
        (drop_parameters, "a checkpoint of the graph that went in does not fit"),
        (hide_parameters, "a checkpoint of the graph that went in does not fit"),
        (grow_for_ever, "it is not idempotent"),
        (lie_about_shapes, "it leaves wrong shapes on the nodes"),
    ],
)
def test_a_wrong_pass_is_caught(
    rule: Callable[[fx.GraphModule], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful = type("Harmful", (Wrong,), {"idempotent": rule is grow_for_ever})
    monkeypatch.setattr(registry_module, "find_pass", None)
    monkeypatch.setattr("fxgrow.passes.pipeline.find_pass", lambda name: functools.partial(harmful, rule))
    monkeypatch.setattr("fxgrow.passes.pipeline.options_of", lambda _: {})
    model, inputs = sample_models()["mlp"].make(dtype=torch.float64)
    with pytest.raises(VerificationError, match=message):
        check_pass(harmful(rule), fxgrow.trace(model, inputs))


class TestPublishedWidthOperators:
    """The width operators of the published code change the function, though described otherwise (method.md, 4)."""

    def test_rows_of_both_signs_with_equal_outgoing_weights_are_caught(self) -> None:
        wide, narrow = widened_mlp(signs=(1.0, 1.0)), mlp()
        with pytest.raises(VerificationError, match="output: it differs"):
            assert_same_function(narrow, wide, torch.randn(2, 6, dtype=torch.float64), gradients=False)

    def test_equal_rows_with_opposite_outgoing_weights_pass(self) -> None:
        wide, narrow = widened_mlp(signs=(1.0, -1.0)), mlp()
        assert_same_function(narrow, wide, torch.randn(2, 6, dtype=torch.float64), gradients=False)

    def test_widened_values_with_heads_cut_anew_are_caught(self) -> None:
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        with pytest.raises(VerificationError, match="output: it differs"):
            assert_same_function(Attention(), Attention().widen(head_aware=False), x, gradients=False)

    def test_values_widened_head_by_head_pass(self) -> None:
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        assert_same_function(Attention(), Attention().widen(head_aware=True), x, gradients=False)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 4)).double()


def widened_mlp(signs: tuple[float, float]) -> nn.Module:
    """Widen by two rows +-0.2 W for each row, or by two equal rows where the outgoing weights have opposite signs."""
    narrow, wide = mlp(), nn.Sequential(nn.Linear(6, 36), nn.GELU(), nn.Linear(36, 4)).double()
    mirror = -0.2 if signs == (1.0, 1.0) else 0.2
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = narrow.get_parameter(f"0.{name}")
            wide.get_parameter(f"0.{name}").copy_(torch.cat((rows, 0.2 * rows, mirror * rows)))
        out = narrow.get_parameter("2.weight")
        wide.get_parameter("2.weight").copy_(torch.cat((out, signs[0] * out, signs[1] * out), 1))
        wide.get_parameter("2.bias").copy_(narrow.get_parameter("2.bias"))
    return wide


class Attention(nn.Module):
    """Attention with two heads whose values can be widened."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qk, self.v, self.proj = (nn.Linear(8, size, dtype=torch.float64) for size in (16, 8, 8))

    def widen(self, *, head_aware: bool) -> "Attention":
        """Double the values: all of them once more at the end, or each head's once more at its end."""
        v, proj = nn.Linear(8, 16, dtype=torch.float64), nn.Linear(16, 8, dtype=torch.float64)
        order = torch.arange(8).repeat(2)
        if head_aware:
            order = torch.arange(8).reshape(2, 4).repeat(1, 2).flatten()
        with torch.no_grad():
            v.weight.copy_(self.v.weight[order])
            v.bias.copy_(self.v.bias[order])
            proj.weight.copy_(self.proj.weight[:, order] / 2)
            proj.bias.copy_(self.proj.bias)
        self.v, self.proj = v, proj
        return self

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (*self.qk(x).chunk(2, -1), self.v(x)))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))
