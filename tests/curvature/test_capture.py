"""Capturing disturbs nothing, and what in-place operations do afterwards does not disturb what was captured."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import forward_pass
from fxgrow.execution.preservation import preserved
from fxgrow.testing import Draws


class _Model(nn.Module):
    def __init__(self, tail):
        super().__init__()
        self.first, self.second, self.tail = nn.Linear(4, 4), nn.Linear(4, 3), tail

    def forward(self, x):
        return self.second(self.tail(self.first(x)))


def _double(tail):
    torch.manual_seed(0)
    return _Model(tail).double()


X, TARGET = Draws(1).normal(6, 4), torch.arange(6) % 3


def _captured(graph_module, seed=0):
    first, second = (next(iter(graph_module.graph.find_nodes(op="call_module", target=t))) for t in ("first", "second"))
    nodes = [second.args[0]]
    batch = Batch(0, (X,), TARGET, 6)
    with forward_pass(
        graph_module, F.cross_entropy, batch, values=nodes, differentiable=[first, second], seed=seed
    ) as run:
        values = {"output": run.values[first].detach().clone(), "input": run.values[nodes[0]].detach().clone()}
        gradients = run.gradients([first, second])
        return values, gradients[first], gradients[second]


def _tail_of(function):
    class Tail(nn.Module):
        def forward(self, x):
            return function(x)

    return Tail()


IN_PLACE = {
    "module": nn.ReLU(inplace=True),
    "function": _tail_of(lambda z: F.relu(z, inplace=True)),
    "method": _tail_of(lambda z: z.relu_()),
    "through a view": _tail_of(lambda z: z.view(6, 2, 2).relu_().view(6, 4)),
    "operator": _tail_of(lambda z: operator.imul(z, F.relu(z).sign())),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", IN_PLACE)
def test_values_and_gradients_are_those_before_an_in_place_operation(kind, frozen):
    model = _double(IN_PLACE[kind]).requires_grad_(not frozen)
    z = model.first(X).detach().requires_grad_()
    h = F.relu(z)
    o = model.second(h)
    deltas = torch.autograd.grad(F.cross_entropy(o, TARGET), (z, o))
    values, *gradients = _captured(torch.fx.symbolic_trace(model))
    torch.testing.assert_close(values["output"], z.detach())
    torch.testing.assert_close(values["input"], h.detach())
    torch.testing.assert_close(gradients, list(deltas))


def test_an_input_changed_in_place_after_the_site_is_the_one_that_the_site_read():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            h = self.first(x) + 1.0  # whose derivative does not need the value that is overwritten
            output = self.second(h)
            return output + h.mul_(0).sum()

    model = Model().double().requires_grad_(False)
    values, *_ = _captured(torch.fx.symbolic_trace(model))
    torch.testing.assert_close(values["input"], model.first(X) + 1.0)


def test_nothing_of_the_model_moves():
    model = _double(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))).train()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    graph_module = torch.fx.symbolic_trace(model)
    before = {name: value.clone() for name, value in graph_module.state_dict().items()}
    state = torch.get_rng_state()
    _captured(graph_module)
    assert torch.equal(torch.get_rng_state(), state)
    assert graph_module.training
    assert bool((graph_module.first.weight.grad == 1).all())
    assert all(torch.equal(before[name], value) for name, value in graph_module.state_dict().items())


def test_the_seed_decides_the_dropout_masks():
    graph_module = torch.fx.symbolic_trace(_double(nn.Dropout(0.5)).train())
    first, again, other = (_captured(graph_module, seed)[0]["input"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_buffers_are_put_back_after_an_error_and_when_they_were_replaced():
    module = nn.BatchNorm1d(2)
    mean = module.running_mean

    def disturb():
        with preserved(module, seed=0):
            module.running_var.fill_(7)
            module.running_mean = torch.ones(2)
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert module.running_mean is mean
    assert module.running_var.tolist() == [1, 1]


def test_it_works_under_no_grad_and_inference_mode():
    graph_module = torch.fx.symbolic_trace(_double(nn.Tanh()))
    _, expected, _ = _captured(graph_module)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(_captured(graph_module)[1], expected)


def test_a_value_that_the_loss_ignores_has_a_gradient_of_zero():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            self.first(x)
            return self.second(x)

    _, first, second = _captured(torch.fx.symbolic_trace(Model().double()))
    assert float(first.abs().max()) == 0
    assert float(second.abs().max()) > 0
