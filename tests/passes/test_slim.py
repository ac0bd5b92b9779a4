"""Slimming halves hidden widths, keeps residual streams, and leaves a model that runs and grows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.passes import parse
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.slim import Slim
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass, sample_models


def traced(name: str) -> torch.fx.GraphModule:
    model, inputs = sample_models()[name].make()
    return fxgrow.trace(model, inputs)


@pytest.mark.parametrize("heads", [False, True])
def test_half_a_deit_s_has_the_published_number_of_parameters(heads: bool) -> None:
    """Section 1 of the paper's table: 11.0 M. Halving heads or halving head sizes gives the same number."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("deit_small_patch16_224", num_classes=100)
    graph_module = fxgrow.trace(model.to_empty(device="cpu"), torch.zeros(1, 3, 224, 224), check=False)
    assert parameter_count(graph_module) == 21_704_164
    assert parameter_count(fxgrow.slim(graph_module, 0.5, heads=heads)) == 11_071_204


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("name", ["vit", "attention", "mlp", "resnet"])
def test_it_keeps_what_a_pass_promises(name: str, heads: bool) -> None:
    check_pass(Slim(0.5, heads), traced(name))


def test_residual_width_stays_and_hidden_widths_are_halved() -> None:
    after = fxgrow.slim(traced("vit"))
    block = after.get_submodule("blocks.0")
    assert (block.attn.qkv.in_features, block.attn.qkv.out_features) == (16, 24)
    assert (block.attn.proj.in_features, block.attn.proj.out_features) == (8, 16)
    assert (block.mlp.fc1.in_features, block.mlp.fc1.out_features) == (16, 32)
    assert (block.mlp.fc2.in_features, block.mlp.fc2.out_features) == (32, 16)


def test_the_result_is_the_model_that_would_have_been_built_narrow() -> None:
    timm = pytest.importorskip("timm")
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 4}
    wide = timm.models.VisionTransformer(**options).double().eval()
    narrow = fxgrow.slim(fxgrow.trace(wide, torch.randn(2, 3, 16, 16, dtype=torch.float64)))
    built = timm.models.VisionTransformer(**{**options, "mlp_ratio": 2.0}).double().eval()
    attention = built.blocks[0].attn
    attention.qkv, attention.proj = nn.Linear(16, 24).double(), nn.Linear(8, 16).double()
    attention.head_dim, attention.attn_dim, attention.scale = 4, 8, 4**-0.5
    built.load_state_dict(narrow.state_dict())
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(narrow.eval()(x), built(x))


def test_a_scale_that_is_spelled_out_follows_the_head_size() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(6, 24), nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(x.size(0), -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.softmax(q @ k.mT / 2.0, dim=-1) @ v
            return self.proj(mixed.transpose(1, 2).flatten(2))

    after = fxgrow.slim(fxgrow.trace(Attention(), torch.randn(2, 5, 6)))
    (division,) = [node for node in after.graph.nodes if getattr(node.target, "__name__", "") == "truediv"]
    assert division.args[1] == pytest.approx(2**0.5)
    assert after(torch.randn(3, 7, 6)).shape == (3, 7, 6)


def test_heads_or_their_dimensions_can_go() -> None:
    for heads, sizes in ((False, (2, 4)), (True, (1, 8))):
        after = fxgrow.slim(traced("vit"), heads=heads)
        shapes = [node.args[-2:] for node in after.graph.nodes if node.target == "reshape" and len(node.args) == 6]
        assert shapes == [sizes, sizes]


def test_a_slim_model_grows_trains_and_comes_back_from_a_file(tmp_path) -> None:
    model, inputs = sample_models()["vit"].make()
    small = fxgrow.slim(fxgrow.trace(model, inputs))
    grown = InsertPseudoLayers({"blocks.0.attn.qkv": (1, 9), "blocks.1.mlp.fc1": (31,)})(small).graph_module
    fxgrow.verify(small, grown, modes=("eval",))
    grown.train()(*inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in grown.parameters())
    fxgrow.save(grown, tmp_path / "model.pt")
    loaded = fxgrow.load(tmp_path / "model.pt", base=model)
    assert torch.equal(loaded.eval()(*inputs), grown.eval()(*inputs))
    assert digest(fxgrow.undo(loaded)) == digest(small)


def test_the_pass_replays_from_the_edit_log() -> None:
    before = traced("vit")
    after = fxgrow.slim(before, 0.25, heads=False)
    assert record_of(after).edits == ("slim{ratio=0.25 heads=false}",)
    assert digest(parse(record_of(after).edits[0])(before).graph_module) == digest(after)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(PassError, match="it is not between 0 and 1; give the share that stays"):
        fxgrow.slim(traced("mlp"), ratio)


def test_a_model_without_hidden_width_is_refused_with_the_reason() -> None:
    graph_module = fxgrow.trace(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4))
    with pytest.raises(PassError, match="no width can change, this one because it is an output of the model"):
        fxgrow.slim(graph_module)
