"""What `fxgrow.trace` captures, on models that each hold one difficulty."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.primitives.put import put
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.tracing import retrace
from tests.tracing.models import Branching, Constants, TwoFaced, Wrapper, sample


class FrozenBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = self.backbone(x)
            first, _ = features.chunk(2, dim=1)
        return self.head(features), first


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.linear, x, use_reentrant=False)


class LazyPositions(nn.Module):
    """Builds its positions anew whenever the number of tokens changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("positions", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.positions.shape[1] != x.shape[1]:
            self.positions = torch.arange(x.shape[1], dtype=x.dtype)[None]
        return self.linear(x) + self.positions[..., None]


def test_a_module_that_builds_a_buffer_at_its_first_run_is_traced_with_that_buffer_in_place():
    model = Wrapper(LazyPositions())
    traced = fxgrow.trace(model, torch.randn(2, 3, 4))
    assert record_of(traced).trace_policy["leaves"] == []
    assert "inner.linear" in fxgrow.find_sites(traced)
    assert traced.get_buffer("inner.positions").tolist() == [[0.0, 1.0, 2.0]]
    assert model.inner.positions.shape == (1, 1)


def test_values_computed_without_gradient_stay_without():
    traced = fxgrow.trace(FrozenBackbone(), sample())
    logits, features = traced(sample())
    logits.sum().backward()
    assert not features.requires_grad
    assert traced.get_parameter("backbone.0.weight").grad is None
    assert traced.get_parameter("head.weight").grad is not None


def test_dropped_checkpointing_is_reported():
    traced = fxgrow.trace(Checkpointed(), sample())
    assert "checkpointing is dropped" in record_of(traced).trace_notes[0]
    assert "linear" in fxgrow.find_sites(traced)


def test_constants_are_reported_and_stay_out_of_the_state():
    traced = fxgrow.trace(Wrapper(Constants()), sample())
    assert record_of(traced).trace_notes == (
        "1 tensors that forward creates are constants in the graph; the first, (4,), in inner",
    )
    assert set(traced.state_dict()) == {"first.weight", "first.bias", "last.weight", "last.bias"}


class Padding(nn.Module):
    """Decides on sizes, in every way in which Python asks for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        if length < 5:
            x = F.pad(x, (0, 5 - length))
        parts = [part * (index + 1) for index, part in enumerate(x.unbind(1))]
        return self.linear(torch.stack(parts, 1)[:, : int(length) + 1] + torch.arange(length + 1) * len(x.shape))


def test_control_flow_on_sizes_is_decided_and_asserted():
    traced = fxgrow.trace(Wrapper(Padding()), sample())
    assert record_of(traced).trace_policy["leaves"] == []
    assert "decisions on sizes" in record_of(traced).trace_notes[0]
    assert "inner.linear" in fxgrow.find_sites(traced)
    body = fxgrow.trace(Padding(), sample())
    assert body(torch.randn(7, 4)).shape == (7, 4)
    with pytest.raises(RuntimeError, match="traced for inputs of another size"):
        body(torch.randn(3, 3))


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :2] = x[:, 2:]
        return y


def test_assignment_to_items_is_recorded():
    traced = fxgrow.trace(Wrapper(Writing()), sample())
    assert record_of(traced).trace_notes == ()
    assert put in {node.target for node in traced.graph.nodes}


class MemoryEfficient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.requires_grad else self.linear(x * 1)


def test_control_flow_on_gradients_takes_the_side_of_training_and_holds_without_them_too():
    traced = fxgrow.trace(Wrapper(MemoryEfficient()), sample())
    assert "inner.linear" in fxgrow.find_sites(traced)
    with torch.no_grad():
        assert traced(sample()).shape == (3, 2)


class Factories(nn.Module):
    """Makes tensors of the size of the batch, and computes from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape[0], 1, device=x.device) * torch.finfo(x.dtype).eps
        return x + noise + torch.zeros(x.shape[0], 4) + self.positions.expand(x.shape[0], -1)


def test_tensors_that_depend_on_the_batch_are_made_anew_in_each_run():
    traced = fxgrow.trace(Wrapper(Factories()), sample())
    assert record_of(traced).trace_notes == ()
    traced.get_buffer("inner.positions").zero_()
    changed = traced.eval()(sample())
    traced.get_buffer("inner.positions").copy_(torch.arange(4))
    assert not torch.equal(changed, traced(sample()))


class PerSample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(row) for row in x])


def test_control_flow_on_the_batch_keeps_the_module_whole():
    traced = fxgrow.trace(Wrapper(PerSample()), sample())
    (note,) = record_of(traced).trace_notes
    assert "inner stays whole, with " in note
    assert ": cannot be traced: its control flow depends on the size of the batch (" in note
    assert note.endswith(", return torch.stack([self.linear(row) for row in x]))")


class JoinedBias(nn.Module):
    """As the qkv map of BEiT, EVA and Swin v2."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 6, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.proj = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        return self.proj(F.linear(x, self.qkv.weight, bias=bias))


def test_a_linear_map_with_a_computed_bias_becomes_a_site_without_bias():
    sites = fxgrow.find_sites(fxgrow.trace(Wrapper(JoinedBias()), sample()))
    assert list(sites) == ["first", "inner.qkv", "inner.proj", "last"]
    assert sites["inner.qkv"].bias is None


class Deceptive(nn.Module):
    """Takes another path when it is traced, which no proxy sees: a proxy is a tensor, but of a type of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return self.linear(x) + (table if type(x) is Tensor else -table)


def test_a_module_in_which_tracing_fixed_something_wrong_stays_whole():
    traced = fxgrow.trace(Wrapper(Deceptive()), sample())
    assert record_of(traced).trace_policy["leaves"] == ["inner"]
    assert "turn into a constant" in record_of(traced).trace_notes[0]


def test_a_policy_repeats_a_trace_without_the_gate():
    model = Wrapper(nn.Sequential(Deceptive(), TwoFaced(), Branching()))
    traced = fxgrow.trace(model, sample())
    again = retrace(model, sample(), record_of(traced).trace_policy)
    assert digest(again) == digest(traced)
    assert record_of(again).trace_policy == record_of(traced).trace_policy
