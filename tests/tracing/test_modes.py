"""What differs between training and inference in more than a constant: kept open to growth where it can be."""

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.record.record import record_of
from fxgrow.testing import Draws

X = Draws(dtype=torch.float32).normal(4, 6)


def drop_connect(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drop whole samples in training, as EfficientNet does, and do nothing otherwise."""
    if not training:
        return x
    keep = 1 - rate
    return x / keep * torch.floor(keep + torch.rand([x.shape[0], 1], dtype=x.dtype, device=x.device))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + drop_connect(self.first(x), 0.5, self.training))


class LaidOut(nn.Module):
    """Lays a value out in memory in training, as diffusers' residual blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).T
        if self.training:
            h = h.contiguous()
        return self.last(h)


def fused(x: Tensor, weight: Tensor) -> Tensor | None:
    """A kernel that is not there, as in Mamba without one."""
    return None


class WithKernel(nn.Module):
    """Offers its weights to a kernel in training, and computes by itself if there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            done = fused(x.transpose(0, 1), self.first.weight.float())
            if done is not None:
                return done
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("build", [Dropping, LaidOut, WithKernel])
def test_such_a_module_is_traced_and_its_linear_maps_are_sites(build: type[nn.Module]):
    model = build()
    traced = fxgrow.trace(model, X)
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    assert record_of(traced).trace_policy["leaves"] == []
    fxgrow.verify(model, traced, X)


def test_a_function_that_takes_the_mode_is_one_node_that_follows_it():
    traced = fxgrow.trace(nn.Sequential(Dropping()), X)
    (note,) = record_of(traced).trace_notes
    assert note.endswith("drop_connect is one node: does different things in train and in eval mode")
    torch.manual_seed(0)
    assert not torch.equal(traced.train()(X), traced(X))
    assert torch.equal(traced.eval()(X), traced(X))


class OwnWay(nn.Module):
    """Calls in training what is given a parameter: as one node it would hide it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, self.weight) if self.training else x @ self.weight


def scaled(x: Tensor, weight: Tensor) -> Tensor:
    return (2 * x) @ weight


def test_a_function_that_is_given_parameters_leaves_the_module_whole():
    traced = fxgrow.trace(nn.Sequential(OwnWay(), nn.Linear(6, 3)), X)
    assert record_of(traced).trace_policy["leaves"] == ["0"]
