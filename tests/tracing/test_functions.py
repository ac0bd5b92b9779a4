"""Functions that do not run on what is traced: one node each, and everything around them open to growth."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import einops
import numpy
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

import fxgrow
from fxgrow.primitives.modules import qualified_name
from fxgrow.record.record import record_of


def tokens(batch: int = 2) -> Tensor:
    return torch.from_numpy(numpy.random.default_rng(0).standard_normal((batch, 5, 8), dtype=numpy.float32))


def functions_in(traced: torch.fx.GraphModule) -> list[str]:
    return [qualified_name(node.target) for node in traced.graph.nodes if node.op == "call_function"]


class Mixed(nn.Module):
    """A Linear on both sides of `mix`."""

    def __init__(self, mix: Callable[[Tensor], Tensor], features: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.mix = nn.Linear(8, 8), nn.Linear(features, 3), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(self.first(x)))


PACKED = ("einops.packing.pack", "einops.packing.unpack")


@pytest.mark.parametrize(
    ("mix", "names"),
    [
        (lambda x: rearrange(x, "b n d -> n b d").sum(0), ["einops.einops.rearrange"]),
        (lambda x: einops.repeat(x, "b n d -> b (n r) d", r=x.shape[1]), ["einops.einops.repeat"]),
        (lambda x: einops.reduce(x, "b n (h d) -> b h d", "mean", d=8)[:, 0], ["einops.einops.reduce"]),
        (lambda x: einops.einsum(x, x, "b n d, b m d -> b n d"), ["einops.einops.einsum"]),
        (lambda x: einops.unpack(*einops.pack([x, x], "* n d"), "* n d")[1], [*PACKED]),
        (lambda x: x.reshape(tuple(einops.parse_shape(x, "b n d").values())), []),
    ],
)  # fmt: skip
def test_a_call_of_einops_is_one_node_and_holds_at_any_batch_size(mix: Callable[[Tensor], Tensor], names: list[str]):
    model = Mixed(mix)
    traced = fxgrow.trace(model, tokens())
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    assert record_of(traced).trace_policy["leaves"] == []
    assert [name for name in functions_in(traced) if name.startswith("einops.")] == names
    fxgrow.verify(model, traced, tokens(7))


def test_a_layer_of_einops_stays_whole_and_says_nothing_as_it_holds_no_parameters():
    traced = fxgrow.trace(nn.Sequential(nn.Linear(8, 8), Rearrange("b n d -> b (n d)"), nn.Linear(40, 3)), tokens())
    assert list(fxgrow.find_sites(traced)) == ["0", "2"]
    assert record_of(traced).trace_notes == ()


def mask_of(lengths: Tensor, count: int) -> Tensor:
    """Look at values, as a function that makes a mask from lengths does."""
    positions = torch.arange(max(count, int(lengths.max())))
    return positions[:count] < lengths[:, None]


def softly(x: Tensor) -> Tensor:
    """Take plain tensors only."""
    if type(x) not in (Tensor, nn.Parameter):
        raise TypeError(f"{type(x).__name__} is no tensor")
    return F.softplus(x)


def guarded(x: Tensor) -> Tensor:
    """Look at values and return no tensor: a branch on it is one on values."""
    return x if positive(x) else -x


def positive(x: Tensor) -> bool:
    return bool((x > -1e6).all())


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.last(self.first(x) * mask_of(lengths, x.shape[1])[..., None])


def test_a_function_that_looks_at_values_is_one_node_and_the_note_says_why():
    model, lengths = Padded(), torch.tensor([5, 2])
    traced = fxgrow.trace(model, (tokens(), lengths))
    (note,) = record_of(traced).trace_notes
    assert "mask_of is one node: cannot be traced: its control flow depends on the values of lengths (" in note
    assert note.endswith(", positions = torch.arange(max(count, int(lengths.max()))))")
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    for other in (torch.tensor([1, 1]), torch.tensor([0, 4])):
        torch.testing.assert_close(traced(tokens(), other), model(tokens(), other))


@pytest.mark.parametrize("function", [softly, guarded])
def test_a_function_that_takes_plain_tensors_only_or_whose_helper_branches_is_one_node(function: Callable[..., Any]):
    model = Mixed(function)
    traced = fxgrow.trace(model, tokens())
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    assert any(name.endswith(function.__name__) for name in functions_in(traced))
    fxgrow.verify(model, traced, tokens(3))


def through(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x) if x.sum() > -1e9 else x


class GivesAModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return through(self.linear, x)


def test_a_function_that_is_given_a_module_is_no_node_for_it_would_hide_parameters():
    traced = fxgrow.trace(nn.Sequential(GivesAModule(), nn.Linear(8, 3)), tokens())
    assert record_of(traced).trace_policy["leaves"] == ["0"]


def heads_by_length(x: Tensor) -> Tensor:
    return x.reshape(len(x) * 2, x.shape[1], 4).softmax(1).reshape(len(x), len(x[0]), 8)


def test_the_length_of_a_tensor_may_be_the_size_of_the_batch_and_is_then_read_when_the_graph_runs():
    model = Mixed(heads_by_length)
    traced = fxgrow.trace(model, tokens())
    assert not record_of(traced).trace_policy["leaves"]
    assert "len" not in globals()
    for batch in (1, 7):
        assert torch.equal(traced(tokens(batch)), model(tokens(batch)))


def test_names_are_back_in_place_after_a_trace_that_failed():
    module = sys.modules[__name__]
    assert isinstance(module, ModuleType)
    before = dict(vars(module))
    fxgrow.trace(Mixed(softly), tokens())
    with pytest.raises(fxgrow.FxgrowError):
        fxgrow.trace(GivesAModule(), tokens())
    assert all(vars(module)[name] is value for name, value in before.items())


def test_a_model_with_such_functions_grows_saves_and_comes_back(tmp_path):
    model = Mixed(lambda x: softly(rearrange(x, "b n d -> b n d")))
    traced = fxgrow.trace(model, tokens())
    target = torch.tensor([0, 1])
    scores = fxgrow.analyze(traced, lambda output, y: F.cross_entropy(output.mean(1), y), [(tokens(), target)])
    grown = fxgrow.grow(traced, scores, budget=60)
    fxgrow.verify(model, grown, tokens(3))
    fxgrow.save(grown, tmp_path / "model.pt")
    again = fxgrow.load(tmp_path / "model.pt", base=model)
    assert torch.equal(again.eval()(tokens()), grown.eval()(tokens()))
