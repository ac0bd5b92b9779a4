"""State dict names, order and persistence across copies of a GraphModule."""

import torch
from torch import Tensor, fx, nn

from fxgrow.graph.sharing import share
from fxgrow.graph.state import adopt_state


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.last = nn.Linear(3, 2)
        self.block = nn.Module()
        self.block.first = nn.Linear(4, 3)
        self.block.again = self.block.first
        self.block.register_buffer("table", torch.ones(3), persistent=False)
        self.block.register_buffer("seen", torch.zeros(3))
        self.block.spare = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block.first(x) + self.block.table)


def test_names_order_and_persistence_are_adopted():
    model = Model()
    graph_module = fx.symbolic_trace(model)
    assert list(graph_module.state_dict()) != list(model.state_dict())
    adopt_state(model, graph_module)
    assert list(graph_module.state_dict()) == list(model.state_dict())
    assert graph_module.get_submodule("block.again") is model.block.first


def test_a_shared_copy_keeps_them_and_has_its_own_containers():
    model = Model()
    graph_module = fx.symbolic_trace(model)
    adopt_state(model, graph_module)
    shared = share(graph_module)
    assert list(shared.state_dict()) == list(model.state_dict())
    assert shared.get_submodule("block") is not graph_module.get_submodule("block")
    assert [id(p) for p in shared.parameters()] == [id(p) for p in model.parameters()]


def test_constants_of_the_graph_are_not_persistent():
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(2)

    graph_module = fx.symbolic_trace(Constant())
    adopt_state(Constant(), graph_module)
    assert graph_module.state_dict() == {}
    torch.testing.assert_close(graph_module(torch.zeros(2)), torch.tensor([0.0, 1.0]))
