"""A traced model stays the same object while its inside is replaced."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.identity import attach_state, become
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of


@pytest.fixture
def traced() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2))
    return fxgrow.trace(model, torch.zeros(2, 4))


def test_a_model_becomes_what_a_rewrite_made_of_it(traced: torch.fx.GraphModule) -> None:
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    grown = fxgrow.widen(traced, "0.0", by=2)
    expected, made, record = grown(x), digest(grown), record_of(grown)
    known, parameters, container = traced, traced._parameters, traced.get_submodule("0")
    kept = traced.get_parameter("1.bias")
    become(traced, grown)
    assert traced is known
    assert torch.equal(traced(x), expected)
    assert (digest(traced), record_of(traced)) == (made, record)
    assert traced._parameters is parameters
    assert traced.get_submodule("0") is container
    assert traced.get_parameter("1.bias") is kept
    assert container.get_submodule("0").out_features == 6


def test_hooks_and_modes_stay(traced: torch.fx.GraphModule) -> None:
    seen: list[int] = []
    traced.register_forward_hook(lambda *_: seen.append(1))
    traced.eval()
    become(traced, fxgrow.insert_block(traced, after="0"))
    traced(torch.zeros(2, 4))
    assert seen == [1]
    assert not traced.training
    assert not traced.get_submodule("0").training


def test_it_can_become_something_else_again_and_again(traced: torch.fx.GraphModule) -> None:
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    expected = traced(x)
    for count in range(1, 4):
        become(traced, fxgrow.insert_block(traced, after="0"))
        assert len(record_of(traced).edits) == count
        torch.testing.assert_close(traced(x), expected)
    become(traced, fxgrow.undo(traced))
    assert torch.equal(traced(x), expected)


class Counted(nn.Module):
    """A module with something to say."""

    count = 0


def say(module: Counted) -> Tensor:
    return torch.tensor(module.count)


def hear(module: Counted, said: Tensor) -> None:
    module.count = int(said)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_state_dict_says_more_than_weights_and_copies_go_on_saying_it(copied) -> None:  # type: ignore[no-untyped-def]
    module = Counted()
    attach_state(module, "count", say, hear)
    module.count = 3
    outer, other = nn.Sequential(nn.Linear(1, 1), module), nn.Sequential(nn.Linear(1, 1), copied(module))
    assert list(outer.state_dict()) == ["0.weight", "0.bias", "1.count"]
    module.count = 5
    other.load_state_dict(outer.state_dict(), strict=True)
    assert other[1].count == 5
    other.load_state_dict({name: value for name, value in outer.state_dict().items() if "count" not in name})
    assert other[1].count == 5
