"""What stands for a value while it is traced: questions about types take the side that the example inputs take."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.record.record import record_of


def rows(count: int = 3, features: int = 4) -> Tensor:
    return torch.from_numpy(numpy.random.default_rng(0).standard_normal((count, features), dtype=numpy.float32))


class Asking(nn.Module):
    """Takes its second Linear if `question` says no of a traced value."""

    def __init__(self, question: Callable[[Any], Any]) -> None:
        super().__init__()
        self.yes, self.no, self.question = nn.Linear(4, 4), nn.Linear(4, 4), question

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x)
        return self.yes(h) if self.question(h) else self.no(h)


class Nothing(nn.Module):
    """Returns a tensor and, as a layer without a cache, None; its forward cannot be traced."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return (x, None) if x.sum() > -1e9 else (-x, None)


@pytest.mark.parametrize(
    "question",
    [
        torch.is_tensor,
        lambda h: isinstance(h, Tensor),
        lambda h: isinstance(h.T, Tensor),
        lambda h: isinstance(h.chunk(2)[0], Tensor),
        lambda h: not isinstance(h.shape, Tensor),
        lambda h: not isinstance(h, nn.Parameter),
        lambda h: h is not None,
        lambda h: h.grad is None,
        lambda h: not hasattr(h, "no_such_attribute"),
        lambda h: h.device.type == "cpu",
        lambda h: h.dtype == torch.float32,
        lambda h: h.dtype in (torch.float32, torch.float64),
        lambda h: h.is_floating_point(),
        lambda h: h.ndim == 2 and h.dim() == 2,
        lambda h: not h.requires_grad,
        lambda h: not callable(h) and not callable(h.shape[1]),
        lambda h: bool(h.shape) and bool(h.shape[0]) and bool(h.shape[:-1]),
        lambda h: not torch.jit.is_tracing(),
        lambda h: not torch.jit.is_scripting(),
        lambda h: not torch.compiler.is_compiling(),
        lambda h: not torch.is_autocast_enabled(),
        lambda h: torch.is_grad_enabled(),
    ],
)
def test_a_branch_on_what_a_value_is_takes_the_side_of_the_example(question: Callable[[Any], Any]):
    model = Asking(question)
    traced = fxgrow.trace(model, rows(), check=False)
    assert list(fxgrow.find_sites(traced)) == ["yes"]
    fxgrow.verify(model, traced, rows(), batch_sizes=(3,))


class CacheOrNot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.linear = Nothing(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, cache = self.inner(x)
        return self.linear(y) if cache is None else y


def test_what_is_none_for_the_example_is_none():
    assert "linear" in fxgrow.find_sites(fxgrow.trace(CacheOrNot(), rows()))


def test_the_graph_refuses_a_dtype_for_which_it_was_not_decided():
    traced = fxgrow.trace(Asking(lambda h: h.dtype == torch.float32), rows()).double()
    with pytest.raises(RuntimeError, match="traced for inputs of another size"):
        traced(rows().double())


class ParametersAsked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.scale, nn.Parameter) or isinstance(self.shift, nn.Parameter):
            return x
        return x * self.scale + self.shift


def test_a_parameter_is_a_parameter_and_a_buffer_is_none():
    traced = fxgrow.trace(ParametersAsked(), rows())
    assert {node.target for node in traced.graph.find_nodes(op="get_attr")} == {"scale", "shift"}


class InPlace(nn.Module):
    """Adds to a part of a value by ``+=``: the whole has changed."""

    def forward(self, x: Tensor) -> Tensor:
        whole = x * 2
        part = whole[:, :2]
        part += 1
        return whole


def test_augmented_assignment_to_a_part_changes_the_whole():
    model = InPlace()
    fxgrow.verify(model, fxgrow.trace(model, rows()), rows())


class IndexedConstant(nn.Module):
    """A tensor made in forward is indexed by a traced one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(4.0)[x.argmax(1)] + torch.arange(4.0)[:3].sum() * x.sum(1)


def test_a_tensor_made_in_forward_is_indexed_by_a_traced_one():
    traced = fxgrow.trace(IndexedConstant(), rows())
    fxgrow.verify(IndexedConstant(), traced, rows(5))


def test_values_that_a_trace_computes_leave_its_findings_alone():
    class Autocasting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return x.float()

    traced = fxgrow.trace(nn.Sequential(nn.Linear(4, 4), Autocasting()), rows())
    assert record_of(traced).trace_policy["leaves"] == ["1"]
    assert len(record_of(traced).trace_notes) == 1
