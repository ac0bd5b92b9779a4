"""What `fxgrow.trace` captures, on models that each hold one difficulty."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.primitives.put import put
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import random_scores
from fxgrow.tracing import retrace


class Wrapper(nn.Module):
    """A model with `inner` between two Linears, so that the difficulty lies in a submodule."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = inner
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, self.training)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.query(x)[:, None, :, None], self.value(x)[:, None, :, None]
        rate = 0.5 if self.training else 0.0
        return F.scaled_dot_product_attention(query, query, value, dropout_p=rate).flatten(1)


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1)).bernoulli_(0.5)


class TwoFaced(nn.Module):
    """Does something else in training and holds parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu() if self.training else self.linear(x)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.randn(4)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x).float()


class AutocastOnDeviceOfInput(Autocast):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.linear(x)


class Caching(nn.Module):
    """Keeps what it computed in eval mode, as timm's LeViT does, and its `train` returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.cache = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.bias[torch.arange(4)]
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[torch.arange(4)]
        return x + self.cache["bias"]


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


def sample() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inner", [FunctionalDropout, Attention, DropPath])
def test_dropout_of_every_kind_follows_the_mode(inner: Callable[[], nn.Module]):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    traced.train()
    assert not torch.equal(traced(sample()), traced(sample()))
    traced.eval()
    assert torch.equal(traced(sample()), traced(sample()))


@pytest.mark.parametrize("inner", [FunctionalDropout, Attention])
def test_linear_maps_beside_dropout_stay_open_to_growth(inner: Callable[[], nn.Module]):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    assert record_of(traced).trace_policy["leaves"] == []
    assert any(path.startswith("inner.") for path in fxgrow.find_sites(traced))


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (TwoFaced, "train and in eval mode"),
        (Branching, "cannot be traced"),
        (Noisy, "random numbers"),
        (Counting, "updates its buffer calls"),
        (Autocast, "autocast"),
        (AutocastOnDeviceOfInput, "enters torch.autocast, which a graph does not record"),
    ],
)
def test_the_smallest_module_that_tracing_would_falsify_stays_whole(inner: Callable[[], nn.Module], reason: str):
    traced = fxgrow.trace(Wrapper(inner()), sample())
    record = record_of(traced)
    assert record.trace_policy["leaves"] == ["inner"]
    assert len(record.trace_notes) == 1
    assert record.trace_notes[0].startswith("inner stays whole, with ")
    assert reason in record.trace_notes[0]
    assert set(fxgrow.find_sites(traced)) == {"first", "last"}


def test_several_difficult_modules_stay_whole_each():
    traced = fxgrow.trace(nn.Sequential(TwoFaced(), nn.Sequential(Branching()), Wrapper(Noisy())), sample())
    assert record_of(traced).trace_policy["leaves"] == ["0", "1.0", "2.inner"]


class TwoContexts(nn.Module):
    """Gives two reasons to stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.linear(x)
        with torch.autocast("cpu", enabled=False):
            return self.linear(x)


def test_two_findings_in_one_module_do_not_keep_the_module_around_it_whole():
    traced = fxgrow.trace(nn.Sequential(Wrapper(TwoContexts())), sample())
    assert record_of(traced).trace_policy["leaves"] == ["0.inner"]
    assert len(record_of(traced).trace_notes) == 1


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


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + torch.arange(4)


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


class Arguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, flag: bool = False) -> Tensor:
        x = self.embedding(ids) * scale
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return self.linear(x).mean(1) + (1 if flag else 0)


def placeholders(traced: fx.GraphModule) -> list[Any]:
    return [node.target for node in traced.graph.find_nodes(op="placeholder")]


def test_arguments_that_are_left_out_are_fixed_at_their_defaults():
    traced = fxgrow.trace(Arguments(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert placeholders(traced) == ["ids"]


def test_keyword_inputs_become_placeholders_and_plain_values_are_fixed():
    model = Arguments()
    inputs = {"ids": torch.tensor([[1, 2, 3], [4, 5, 9]]), "mask": torch.ones(2, 3), "flag": True}
    traced = fxgrow.trace(model, inputs)
    assert placeholders(traced) == ["ids", "mask", "flag"]
    assert record_of(traced).trace_notes == ("argument flag is fixed at True",)
    torch.testing.assert_close(traced(**inputs), model(**inputs))
    torch.testing.assert_close(traced(ids=inputs["ids"], mask=inputs["mask"]), model(**inputs))


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Output:
    logits: Tensor
    features: Tensor | None = None


class Structured(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 2), wrap

    def forward(self, batch: dict[str, Any], *extra: Tensor, **more: Tensor) -> Any:
        x = batch["x"]
        if "pair" in batch:
            left, right = batch["pair"]
            x = x + left - right
        y = self.linear(x)
        return self.wrap(y + sum(extra), x + more["shift"])


@pytest.mark.parametrize(
    "wrap",
    [lambda y, x: (y, x), lambda y, x: {"logits": y, "x": [x]}, Pair, Output],
    ids=["tuple", "dict", "named", "data"],
)
def test_structured_inputs_and_outputs_keep_their_structure(wrap: Callable[[Tensor, Tensor], Any]):
    model = Structured(wrap)
    x = sample()
    inputs = {"batch": {"x": x, "pair": (x, x)}, "shift": x}
    traced = fxgrow.trace(model, inputs)
    expected, found = model(**inputs), traced(**inputs)
    assert type(found) is type(expected)
    fxgrow.verify(model, traced, inputs)


def test_several_positional_inputs():
    traced = fxgrow.trace(nn.Bilinear(4, 4, 2), (sample(), sample()))
    assert placeholders(traced) == ["input1", "input2"]


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
        self.alias = self.block[0]
        self.head = nn.Linear(4, 4)
        self.head.weight = self.block[0].weight
        self.token = nn.Parameter(torch.zeros(4))
        self.spare = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.block(self.block(x))) + self.token)


def test_names_order_and_identity_of_the_state_are_the_models():
    model = Reused()
    traced = fxgrow.trace(model, sample())
    assert list(traced.state_dict()) == list(model.state_dict())
    pairs = zip(model.named_parameters(), traced.named_parameters(), strict=True)
    assert all(name == other and ours is theirs for (name, ours), (other, theirs) in pairs)
    model.load_state_dict(traced.state_dict(), strict=True)


def state_of(model: nn.Module) -> list[Any]:
    return [
        [value.clone() for value in model.state_dict().values()],
        [module.training for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        [parameter.grad for parameter in model.parameters()],
        torch.get_rng_state(),
    ]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(torch.equal(first, second)) if isinstance(first, Tensor) else first == second


@pytest.mark.parametrize("inner", [Reused, Counting, Caching, Noisy, FunctionalDropout])
def test_the_model_and_the_random_state_stay_as_they_were(inner: Callable[[], nn.Module]):
    model = Wrapper(inner())
    model.inner.eval()
    before = state_of(model)
    fxgrow.trace(model, sample())
    assert same(before, state_of(model))


def test_a_failed_trace_leaves_the_model_as_it_was():
    model = Reused()
    before = state_of(model)
    with pytest.raises(TraceError):
        fxgrow.trace(model, torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    assert same(before, state_of(model))


def test_tracing_twice_gives_the_same_digest():
    model = Wrapper(nn.Sequential(TwoFaced(), Attention(), Constants()))
    assert digest(fxgrow.trace(model, sample())) == digest(fxgrow.trace(model, sample()))


@pytest.mark.parametrize(
    ("model", "inputs", "where", "what"),
    [
        (Branching(), sample(), "Branching", "cannot be traced"),
        (TwoFaced(), sample(), "TwoFaced", "build it without what only training needs"),
        (Wrapper(nn.Identity()), torch.ones(3, 5), "first", "does not run on the example inputs"),
        (Wrapper(nn.Linear(3, 4)), sample(), "inner", "does not run on the example inputs"),
        (Wrapper(nn.Identity()), (sample(), 1), "Wrapper", "do not fit its forward"),
        (Wrapper(nn.Identity()), {"y": sample()}, "Wrapper", "do not fit its forward"),
        (Noisy(), sample(), "output", "the traced graph is not the model"),
    ],
)
def test_what_cannot_be_traced_is_one_line_that_names_the_module(model: nn.Module, inputs: Any, where: str, what: str):
    with pytest.raises(TraceError) as caught:
        fxgrow.trace(model, inputs)
    assert str(caught.value).startswith(f"{where}: ")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["import", 'quoted"', "back\\slash", "two\nlines"])
def test_a_module_whose_name_cannot_be_written_as_python_is_refused_by_it(name: str):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(2, 2)})

        def forward(self, x: Tensor) -> Tensor:
            return self.parts[name](x)

    with pytest.raises(TraceError, match="can be no attribute; give the module another name") as caught:
        fxgrow.trace(Named(), torch.ones(2, 2))
    assert caught.value.where == f"parts.{name}"


class Detector(nn.Module):
    """Its forward depends on values; its backbone does not."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Wrapper(nn.GELU()), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        return self.head(features) if features.sum() > -100 else features


def test_a_part_of_a_model_that_cannot_be_traced_grows_in_its_place():
    model = Detector()
    expected = model(sample())
    with pytest.raises(TraceError, match=r"values of x \(.* trace backbone, a submodule of it with 83% of its param"):
        fxgrow.trace(model, sample())
    backbone = fxgrow.trace(model.backbone, sample())
    model.backbone = fxgrow.grow(backbone, random_scores(backbone), budget=0.5)
    output = model(sample())
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert any(parameter.grad.any() for parameter in fxgrow.new_parameters(model.backbone).values())


def test_a_graph_module_passes_through_normalised_and_with_shapes():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    plain = fx.symbolic_trace(model)
    traced = fxgrow.trace(plain, sample())
    assert not traced.get_submodule("1").inplace
    assert plain.get_submodule("1").inplace
    assert all("type" in node.meta for node in traced.graph.nodes)
    assert digest(fxgrow.trace(traced, sample())) == digest(traced)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_traced_model_can_be_copied_and_pickled(copied: Callable[[nn.Module], nn.Module]):
    traced = fxgrow.trace(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), sample())
    assert torch.equal(copied(traced).eval()(sample()), traced.eval()(sample()))
