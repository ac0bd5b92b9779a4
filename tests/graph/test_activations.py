"""What an activation node applies, as a function that derivatives can be taken of."""

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.graph import activations
from fxgrow.graph.activations import activation_after, elementwise

MODULES = list(activations._MODULES)
FUNCTIONS = sorted(activations._FUNCTIONS, key=lambda function: function.__name__)


class Applies(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class LeafTracer(fx.Tracer):
    """Keeps the operators' own activations whole, as a pseudo-layer's do when they are inlined."""

    def is_leaf_module(self, m, module_qualified_name):
        return not isinstance(m, Applies)


def function_of(module: nn.Module) -> activations.Elementwise | None:
    model = Applies(module)
    traced = fx.GraphModule(model, LeafTracer().trace(model))
    (node,) = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    return elementwise(traced, node)


@pytest.mark.parametrize("module", [*(kind() for kind in MODULES), *map(Applies, FUNCTIONS)], ids=repr)
def test_every_activation_can_be_differentiated_twice_and_is_the_function_itself(module) -> None:
    function = function_of(module)
    assert function is not None
    z = torch.linspace(-7.1, 7.3, 97, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(function(z), module(z), rtol=1e-14, atol=1e-15)
    (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
    if first.requires_grad:
        torch.autograd.grad(first.sum(), z, materialize_grads=True)


def test_the_function_of_an_inplace_activation_leaves_its_argument_alone() -> None:
    function = function_of(nn.Hardsigmoid(inplace=True))
    z = torch.randn(5)
    before = z.clone()
    torch.testing.assert_close(function(z), F.hardsigmoid(z))
    assert torch.equal(z, before)


def test_an_activation_that_others_read_beside_is_not_the_one_behind_the_node() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            y = self.fc(x)
            return F.relu(y) + y

    traced = fx.symbolic_trace(Forked())
    (fc,) = [node for node in traced.graph.nodes if node.target == "fc"]
    assert activation_after(traced, fc) is None
