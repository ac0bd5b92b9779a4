import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.files import describe, read_table
from fxgrow.record.digest import digest
from fxgrow.record.record import Origin, record_of


def make_mlp():
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 3))


def scored_and_grown(graph_module, budget=0.2):
    targets = torch.zeros(8, dtype=torch.long)
    inputs = tuple(
        torch.randn(8, *node.meta["tensor_meta"].shape[1:], dtype=node.meta["tensor_meta"].dtype)
        for node in graph_module.graph.find_nodes(op="placeholder")
    )
    scores = fxgrow.analyze(graph_module, nn.functional.cross_entropy, [(inputs, targets)] * 2)
    grown = fxgrow.grow(graph_module, scores, budget=budget, context={"epoch": 1})
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(torch.full_like(parameter, 0.01))
    return grown


def test_outputs_are_bit_equal_after_a_round_trip(grown, saved):
    loaded = fxgrow.load(saved, base=make_mlp())
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), grown(x))
    assert digest(loaded) == digest(grown)


def test_everything_that_a_table_says_survives(grown, saved):
    loaded = fxgrow.load(saved, base=make_mlp())
    table = describe(loaded)
    assert table == describe(grown)
    assert table == replace(read_table(saved), written_by={})
    assert any(row.annotation.get("scores") for row in table.nodes)
    assert any(row.annotation.get("provenance") for row in table.nodes)


def test_the_record_survives_and_growth_goes_on(saved, tmp_path):
    loaded = fxgrow.load(saved, base=make_mlp())
    again = scored_and_grown(loaded)
    fxgrow.save(again, tmp_path / "again.pt")
    twice = fxgrow.load(tmp_path / "again.pt", base=make_mlp())
    record = record_of(twice)
    assert len(record.edits) == len(record.history) == 2
    assert record.history[0].context == {"epoch": 3}
    assert torch.equal(twice(torch.ones(1, 6)), again(torch.ones(1, 6)))


def test_modes_and_frozen_parameters_are_restored(grown, tmp_path):
    grown.eval()
    grown.get_submodule("1").train()
    grown.get_parameter("0.weight").requires_grad_(False)
    fxgrow.save(grown, tmp_path / "model.pt")
    loaded = fxgrow.load(tmp_path / "model.pt", base=make_mlp())
    assert not loaded.training
    assert loaded.get_submodule("1").training
    assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == ["0.weight"]


def test_the_base_given_by_the_caller_is_not_changed(saved):
    base = make_mlp()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    fxgrow.load(saved, base=base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_a_plainly_traced_model_comes_back(mlp, tmp_path):
    plain = fx.symbolic_trace(mlp)
    fxgrow.save(plain, tmp_path / "plain.pt")
    x = torch.randn(2, 6)
    assert torch.equal(fxgrow.load(tmp_path / "plain.pt", base=make_mlp())(x), plain(x))


def test_a_plainly_traced_model_that_grew_comes_back(tmp_path):
    plain = fx.symbolic_trace(make_mlp())
    scores = fxgrow.analyze(plain, nn.functional.cross_entropy, [(torch.randn(8, 6), torch.zeros(8).long())] * 2)
    grown = fxgrow.grow(plain, scores, budget=0.3)
    fxgrow.save(grown, tmp_path / "plain.pt")
    x = torch.randn(2, 6)
    for base in (make_mlp(), fx.symbolic_trace(make_mlp())):
        assert torch.equal(fxgrow.load(tmp_path / "plain.pt", base=base)(x), grown(x))


def test_a_grown_graph_module_serves_as_its_own_base(grown, saved):
    x = torch.randn(2, 6)
    assert torch.equal(fxgrow.load(saved, base=grown)(x), grown(x))


@pytest.mark.parametrize("cast", ["before", "after"])
def test_other_dtypes_come_back(mlp, tmp_path, cast):
    if cast == "before":
        model = scored_and_grown(fxgrow.trace(mlp.double(), torch.randn(4, 6, dtype=torch.float64)))
    else:
        model = scored_and_grown(fxgrow.trace(mlp, torch.randn(4, 6))).to(torch.bfloat16)
    fxgrow.save(model, tmp_path / "model.pt")
    loaded = fxgrow.load(tmp_path / "model.pt", base=make_mlp())
    x = torch.randn(2, 6).to(model.get_parameter("0.weight").dtype)
    assert torch.equal(loaded(x), model(x))


class Tied(nn.Module):
    """Tied weights, a buffer outside the state dict, and integers by keyword."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.rand(4), persistent=False)

    def forward(self, tokens, *, weight=None, double=False):
        x = torch.relu(self.inner(self.embedding(tokens) * self.scale))
        x = x if weight is None else x * weight
        return self.head(x * 2 if double else x)


def test_ties_hidden_buffers_and_keyword_inputs_come_back(tmp_path):
    inputs = {"tokens": torch.randint(11, (3, 5)), "weight": torch.rand(3, 5, 4), "double": True}
    traced = fxgrow.trace(Tied(), inputs)
    fxgrow.save(traced, tmp_path / "tied.pt")
    loaded = fxgrow.load(tmp_path / "tied.pt", base=Tied())
    assert torch.equal(loaded(**inputs), traced(**inputs))
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("embedding.weight")
    assert torch.equal(loaded.get_buffer("scale"), traced.get_buffer("scale"))
    assert "scale" not in loaded.state_dict()


class Remembering(nn.Module):
    """Keeps the last input in a buffer outside the state dict, whose shape follows it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("last", torch.zeros(1, 4), persistent=False)

    def forward(self, x):
        self.last = x.detach()
        return self.inner(x)


def test_a_buffer_that_changed_its_shape_when_the_model_ran_comes_back(tmp_path):
    x, model = torch.randn(3, 4), nn.Sequential(Remembering(), nn.Linear(4, 2))
    traced = fxgrow.trace(model, x)
    before = digest(traced)
    traced(x)
    assert digest(traced) == before
    fxgrow.save(traced, tmp_path / "remembering.pt")
    loaded = fxgrow.load(tmp_path / "remembering.pt", base=nn.Sequential(Remembering(), nn.Linear(4, 2)))
    assert torch.equal(loaded.get_buffer("0.last"), x)
    assert torch.equal(loaded(x), traced(x))


def test_a_view_does_not_drag_its_storage_into_the_file(tmp_path):
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.zeros(1000, 1000)[:4, :4])
    fxgrow.save(fx.symbolic_trace(model), tmp_path / "view.pt")
    assert (tmp_path / "view.pt").stat().st_size < 100_000


def test_the_file_holds_plain_data_and_tensors_only(saved):
    def check(value):
        if isinstance(value, dict):
            for key, item in value.items():
                assert type(key) is str
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (bool, int, float, str, torch.Tensor)

    document = torch.load(saved, weights_only=True)
    check(document)
    assert document["format"] == "fxgrow"


def test_outputs_are_bit_equal_in_a_fresh_process(tmp_path):
    timm = pytest.importorskip("timm")
    arguments = {"num_classes": 5, "img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    origin = Origin("timm", "vit_tiny_patch16_224", arguments)
    traced = fxgrow.trace(model, torch.randn(2, 3, 16, 16), origin=origin)
    grown = scored_and_grown(traced).eval()
    fxgrow.save(grown, tmp_path / "vit.pt")
    script = (
        "import hashlib, sys, torch, fxgrow\n"
        "torch.set_num_threads(1)\n"  # as here: another number of threads may sum in another order
        "out = fxgrow.load(sys.argv[1])(torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16))\n"
        "print(hashlib.sha256(out.detach().numpy().tobytes()).hexdigest())\n"
    )
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    expected = hashlib.sha256(grown(x).detach().numpy().tobytes()).hexdigest()
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "vit.pt"], capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr
