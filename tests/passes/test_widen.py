"""Widening keeps the function, breaks the symmetry, and takes the optimizer along."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.passes import parse
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.widen import Widen
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass, sample_models


class ManualAttention(nn.Module):
    """Attention spelled out: chunks, a scale, two matmuls, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 24), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(x.size(0), -1, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = (q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1)
        mixed = (weights @ v).permute(0, 2, 1, 3)
        return self.proj(mixed.reshape(x.size(0), -1, 8))


class GatedUnit(nn.Module):
    """A GLU whose two halves come from one map."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).split(5, dim=-1)
        return x + self.fc2(F.silu(gate) * value)


class NormalisedConvolutions(nn.Module):
    """Convolution, BatchNorm, activation, pooling, flattening and a head that reads every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2)
        self.pool, self.flatten, self.head = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.conv2(self.bn(self.conv1(x)).relu()))))


class Functional(nn.Module):
    """Hidden units whose parameters are read by get_attr."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5))
        self.out = nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight, self.bias).tanh(), self.out)


OWN = {
    "manual": (ManualAttention, (5, 6)),
    "glu": (GatedUnit, (6,)),
    "norms": (NormalisedConvolutions, (2, 5, 5)),
    "functional units": (Functional, (6,)),
}


def traced(name: str) -> torch.fx.GraphModule:
    if name in OWN:
        kind, shape = OWN[name]
        torch.manual_seed(0)
        model, inputs = kind().double(), (torch.randn(3, *shape, dtype=torch.float64),)
    else:
        model, inputs = sample_models()[name].make(dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return fxgrow.trace(model, inputs)


@pytest.mark.parametrize("how", ["pairs", "split"])
@pytest.mark.parametrize(
    ("name", "site", "heads"),
    [
        ("vit", "blocks.0.mlp.fc1", False),
        ("vit", "blocks.1.attn.qkv", False),
        ("vit", "blocks.1.attn.qkv", True),
        ("attention", "q", False),
        ("attention", "k", False),
        ("attention", "v", False),
        ("attention", "v", True),
        ("attention", "up", False),
        ("mlp", "0", False),
        ("manual", "qkv", False),
        ("manual", "qkv", True),
        ("glu", "fc1", False),
        ("norms", "conv1", False),
        ("norms", "conv2", False),
        ("functional units", "", False),
    ],
)
def test_it_keeps_what_a_pass_promises(name: str, site: str, heads: bool, how: str) -> None:
    before = traced(name)
    site = site or next(iter(fxgrow.find_sites(before)))
    result = check_pass(Widen(site, 2, how, heads), before).graph_module
    assert sum(p.numel() for p in result.parameters()) > sum(p.numel() for p in before.parameters())


def test_pairs_come_in_alike_and_go_out_opposite() -> None:
    before = traced("mlp")
    after = Widen("0", 4)(before).graph_module
    incoming, outgoing = after.get_parameter("0.weight"), after.get_parameter("2.weight")
    assert torch.equal(incoming[:12], before.get_parameter("0.weight"))
    assert torch.equal(outgoing[:, :12], before.get_parameter("2.weight"))
    assert torch.equal(incoming[12::2], incoming[13::2])
    assert torch.equal(outgoing[:, 12::2], -outgoing[:, 13::2])
    assert bool(incoming[12:].any(1).all())
    assert bool(outgoing[:, 12:].any(0).all())


def test_splitting_shares_the_outgoing_weights() -> None:
    before = traced("mlp")
    after = Widen("0", 3, "split")(before).graph_module
    old, new = before.get_parameter("0.weight"), after.get_parameter("0.weight")
    parents = [int((row == old).all(1).nonzero()) for row in new[12:]]
    assert len(set(parents)) == 3
    outgoing = after.get_parameter("2.weight")
    torch.testing.assert_close(outgoing[:, parents] + outgoing[:, 12:], before.get_parameter("2.weight")[:, parents])
    assert not torch.allclose(outgoing[:, parents], outgoing[:, 12:])


def test_heads_hold_their_boundaries() -> None:
    before = traced("vit")
    after = Widen("blocks.0.attn.qkv", 2)(before).graph_module
    old = before.get_parameter("blocks.0.attn.qkv.weight").reshape(3, 2, 8, 16)
    new = after.get_parameter("blocks.0.attn.qkv.weight").reshape(3, 2, 10, 16)
    assert torch.equal(new[:, :, :8], old)
    queries, keys, values = new[:, :, 8:]
    assert torch.equal(queries[:, 0], queries[:, 1])
    assert torch.equal(keys[:, 0], -keys[:, 1])
    assert torch.equal(values[:, 0], values[:, 1])
    (attention, _) = [n for n in after.graph.nodes if n.target is F.scaled_dot_product_attention]
    assert attention.kwargs["scale"] == 8**-0.5


def test_q_and_k_widen_together_and_v_with_proj() -> None:
    after = Widen("q", 2)(traced("attention")).graph_module
    assert [after.get_submodule(name).out_features for name in "qkv"] == [12, 12, 8]
    after = Widen("v", 2)(traced("attention")).graph_module
    assert [after.get_submodule(name).out_features for name in "qkv"] == [8, 8, 12]
    assert after.proj.in_features == 12


@pytest.mark.parametrize("how", ["pairs", "split"])
@pytest.mark.parametrize(("name", "site"), [("mlp", "0"), ("vit", "blocks.0.attn.qkv"), ("glu", "fc1")])
def test_the_symmetry_breaks_at_the_first_step(name: str, site: str, how: str) -> None:
    torch.manual_seed(0)
    before = traced(name)
    resizing = Widen(site, 2, how).plan(before)
    (units,) = resizing.axes.values()
    (axis,) = resizing.axes
    after = Widen(site, 2, how)(before).graph_module
    optimizer = torch.optim.SGD(after.parameters(), lr=0.1)
    example = next(n for n in after.graph.nodes if n.op == "placeholder").meta["tensor_meta"].shape
    after(torch.randn(example, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    weight = after.get_parameter(f"{site}.weight")
    rows = weight.reshape(-1, axis.size + 2, weight.shape[1])
    for first, second in units.pairs:
        assert bool((rows[:, first] - rows[:, second]).abs().amax(-1).gt(1e-12).all())


@pytest.mark.parametrize(
    ("name", "site", "heads"),
    [("mlp", "0", False), ("manual", "qkv", False), ("vit", "blocks.0.attn.qkv", True), ("attention", "gate", False)],
)
def test_moments_of_split_units_are_those_of_their_gradients(name: str, site: str, heads: bool) -> None:
    """Without the random part, the gradients of the split model are the resized gradients: so are their moments."""
    before = traced(name)
    widened = Widen(site, 2, "split", heads)
    plan, after = widened.plan(before), widened(before).graph_module
    with torch.no_grad():
        for key, steps in plan.steps.items():
            value = before.get_parameter(key)
            for step in steps:
                value = step.apply(value, None)
            after.get_parameter(key).copy_(value)
    shape = next(n for n in after.graph.nodes if n.op == "placeholder").meta["tensor_meta"].shape
    x = torch.randn(shape, dtype=torch.float64)
    for model in (before, after):
        model.eval()(x).square().sum().backward()
    lineages = widened.lineages(before, after)
    for key in plan.steps:
        expected = lineages[key].moments([before.get_parameter(key).grad], 1)
        torch.testing.assert_close(after.get_parameter(key).grad, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["pairs", "split"])
def test_the_optimizer_goes_on_with_the_new_parameters(how: str) -> None:
    before = traced("mlp")
    optimizer = torch.optim.AdamW(before.parameters(), lr=1e-2)
    x = torch.randn(8, 6, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        before(x).square().sum().backward()
        optimizer.step()
    old = {name: dict(optimizer.state[p]) for name, p in before.named_parameters()}
    after = fxgrow.widen(before, "0", by=2, how=how, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in after.parameters()]
    assert len(optimizer.state) == len(list(after.parameters()))
    untouched = after.get_parameter("5.weight")
    assert all(value is old["5.weight"][key] for key, value in optimizer.state[untouched].items())
    state = optimizer.state[after.get_parameter("0.weight")]
    assert state["step"] == 3
    (units,) = Widen("0", 2, how).plan(before).axes.values()
    for unit, parent in enumerate(units.index.tolist()):
        factor = 0.0 if parent < 0 else 0.5 if how == "split" and (units.index == parent).sum() == 2 else 1.0
        torch.testing.assert_close(state["exp_avg"][unit], factor * old["0.weight"]["exp_avg"][parent])
        torch.testing.assert_close(state["exp_avg_sq"][unit], factor**2 * old["0.weight"]["exp_avg_sq"][parent])
    after(x).square().sum().backward()
    optimizer.step()


def test_the_record_is_consistent_and_replays() -> None:
    before = traced("vit")
    after = fxgrow.widen(before, "blocks.0.attn.qkv", by=2, how="split", seed=3, context={"epoch": 1})
    record = record_of(after)
    (event,) = record.history
    assert (
        event.growths[0].parameters == event.parameters_after - event.parameters_before == 3 * 2 * 2 * 17 + 2 * 2 * 16
    )
    assert set(record.new_parameters) == {
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.qkv.bias",
        "blocks.0.attn.proj.weight",
    }
    replayed = parse(record.edits[0])(before).graph_module
    assert digest(replayed) == digest(after)
    assert all(torch.equal(p, replayed.get_parameter(name)) for name, p in after.named_parameters())


def test_widening_an_ordinary_model_leaves_the_model_alone() -> None:
    before = traced("mlp")
    shapes = [p.shape for p in before.parameters()]
    fxgrow.widen(before, "0", by=2)
    assert [p.shape for p in before.parameters()] == shapes
    assert before.get_submodule("0").out_features == 12


def test_a_widened_site_grows_and_is_widened_again() -> None:
    once = Widen("0", 2)(traced("mlp")).graph_module
    twice = check_pass(Widen("0", 4), once).graph_module
    check_pass(InsertPseudoLayers({"0": (13, 17)}), twice)


@pytest.mark.parametrize(
    ("name", "site", "options", "message"),
    [
        ("vit", "blocks.0.attn.proj", {}, "its width cannot change: (it is added to something|pos_embed has it)"),
        ("vit", "head", {}, "it is an output of the model"),
        ("tied", "encoder", {}, "its weight is tied to"),
        ("convolutions", "2", {}, "it is a grouped convolution"),
        ("functional", "nowhere", {}, "there is no site of this name"),
        ("vit", "blocks.0.mlp.fc1", {"by": 3}, "by=3 does not fit how='pairs'; give a positive even number"),
        ("vit", "blocks.0.mlp.fc1", {"by": 65, "how": "split"}, "give a number from 1 to 64"),
        ("vit", "blocks.0.mlp.fc1", {"heads": True}, "not heads"),
    ],
)
def test_what_cannot_be_widened_is_refused_with_the_reason(
    name: str, site: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(PassError, match=message):
        Widen(**{"site": site, "by": 2, **options})(traced(name))


def test_normalised_hidden_units_are_refused() -> None:
    before = traced("functional")
    with pytest.raises(PassError, match="layer_norm reads it"):
        Widen(next(iter(fxgrow.find_sites(before))), 2)(before)


def test_units_with_active_dropout_are_refused() -> None:
    model, inputs = sample_models()["mlp"].make()
    with pytest.raises(PassError, match="drops its units"):
        Widen("2", 2)(fxgrow.trace(model, inputs))


def test_a_site_on_whose_rows_a_pseudo_layer_grew_is_refused() -> None:
    grown = InsertPseudoLayers({"0": (1, 2)})(traced("mlp")).graph_module
    with pytest.raises(PassError, match="a pseudo-layer grew on its rows"):
        Widen("0", 2)(grown)


def test_accumulated_gradients_of_what_is_widened_are_left_behind_and_others_stay() -> None:
    graph_module = fxgrow.trace(
        nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5), nn.Linear(5, 3)), torch.ones(2, 4)
    )
    graph_module(torch.linspace(-1, 1, 8).reshape(2, 4)).sum().backward()
    before = {name: parameter.grad for name, parameter in graph_module.named_parameters()}
    wider = fxgrow.widen(graph_module, "0", by=2)
    after = {name: parameter.grad for name, parameter in wider.named_parameters()}
    assert [name for name, gradient in after.items() if gradient is None] == ["0.weight", "0.bias", "2.weight"]
    assert all(gradient is None or gradient is before[name] for name, gradient in after.items())
