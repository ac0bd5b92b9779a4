"""What an activation node applies, as a function that derivatives can be taken of."""

import functools

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.activations import Elementwise, activation_after, elementwise, pointwise
from fxgrow.primitives.activations import EvenGELU, ResidualGELU

MODULES = [
    nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardtanh, EvenGELU, ResidualGELU,
]  # fmt: skip
FUNCTIONS = [
    F.gelu, F.relu, F.relu6, F.leaky_relu, F.silu, F.mish, F.elu, F.celu, F.selu, F.softplus, F.softsign, F.sigmoid,
    F.logsigmoid, F.tanh, F.hardswish, F.hardsigmoid, F.hardtanh, torch.relu, torch.sigmoid, torch.tanh, torch.sin,
    torch.selu, torch.celu, torch.erf, torch.exp, torch.square, torch.abs, torch.ops.aten.gelu.default,
]  # fmt: skip
STRAIGHT = [nn.Identity(), nn.Dropout(0.5), torch.neg, torch.clone, lambda x: x * 2 + 1, lambda x: x / 3]
OTHERS = [nn.PReLU(), nn.RReLU(), nn.Softmax(-1), nn.Flatten(0), torch.cumsum, lambda x: x > 0, lambda x: x.T]


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


def traced(function, *, shapes: bool = True) -> tuple[fx.GraphModule, fx.Node]:
    """Return a graph with one call of a module or function, or more calls with one that comes last."""
    model = Applies(function)
    graph_module = fx.GraphModule(model, LeafTracer().trace(model))
    if shapes:
        propagate_shapes(graph_module, torch.zeros(3, 5))
    return graph_module, graph_module.graph.output_node().all_input_nodes[0]


def function_of(function) -> Elementwise | None:
    return elementwise(*traced(function))


def spelled(value) -> str:
    """A name that is the same in every process."""
    return repr(value) if isinstance(value, nn.Module) else value.__name__


@pytest.mark.parametrize("module", [*(kind() for kind in MODULES), *FUNCTIONS], ids=spelled)
def test_every_activation_can_be_differentiated_twice_and_is_the_function_itself(module) -> None:
    function = function_of(module)
    assert function is not None
    z = torch.linspace(-7.1, 7.3, 97, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(function(z), module(z), rtol=1e-14, atol=1e-15)
    (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
    if first.requires_grad:
        torch.autograd.grad(first.sum(), z, materialize_grads=True)


@pytest.mark.parametrize("function", STRAIGHT)
def test_a_straight_line_is_no_activation(function) -> None:
    assert function_of(function) is None


@pytest.mark.parametrize("function", OTHERS)
def test_what_mixes_places_or_draws_or_has_parameters_or_makes_no_numbers_is_not_pointwise(function) -> None:
    if function is torch.cumsum:
        function = functools.partial(torch.cumsum, dim=0)
    assert pointwise(*traced(function)) is None


@pytest.mark.parametrize("function", [nn.GELU(), nn.ReLU(inplace=True), F.silu, torch.tanh, lambda x: x.sigmoid()])
def test_an_activation_is_known_without_shapes(function) -> None:
    assert elementwise(*traced(function, shapes=False)) is not None


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

    forked = fx.symbolic_trace(Forked())
    (fc,) = [node for node in forked.graph.nodes if node.target == "fc"]
    assert activation_after(forked, fc) is None
