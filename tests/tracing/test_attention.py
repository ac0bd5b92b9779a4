"""nn.MultiheadAttention and what is made of it: traced inside, in both modes, and grown there."""

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.sites import find_sites
from fxgrow.record.record import record_of
from fxgrow.testing import random_scores

WIDTH, HEADS = 8, 2


class SelfAttention(nn.Module):
    def __init__(self, *, need_weights: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output, weights = self.attention(x, x, x, need_weights=self.need_weights)
        return (output, weights) if self.need_weights else output


class CrossAttention(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, query: Tensor, memory: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.attention(query, memory, memory, key_padding_mask=padding)[0]


SELF = {
    "plain": {"batch_first": True},
    "time first": {},
    "dropout": {"dropout": 0.3, "batch_first": True},
    "weights and dropout": {"dropout": 0.3, "batch_first": True, "need_weights": True},
    "no bias": {"bias": False},
    "bias of keys, zero attention": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("options", SELF.values(), ids=SELF)
def test_both_projections_are_sites_and_the_gate_of_trace_is_passed(options: dict[str, object]) -> None:
    traced = fxgrow.trace(SelfAttention(**options), torch.randn(3, 5, WIDTH))
    assert list(find_sites(traced)) == ["attention.in_proj_weight", "attention.out_proj"]
    assert record_of(traced).trace_policy == {"leaves": []}


def test_dropout_inside_follows_the_mode() -> None:
    x = torch.randn(3, 5, WIDTH)
    model = SelfAttention(dropout=0.5, batch_first=True)
    traced = fxgrow.trace(model, x)
    for training in (True, False, True):
        outputs = []
        for module in (model.train(training), traced.train(training)):
            torch.manual_seed(0)
            outputs.append(module(x))
        assert torch.equal(*outputs)
        assert torch.equal(traced(x), traced(x)) != training


def test_keys_of_another_width_have_sites_of_their_own_and_masks_stay_inputs() -> None:
    model = CrossAttention(kdim=6, vdim=6).eval()
    query, memory, padding = torch.randn(3, 5, WIDTH), torch.randn(3, 7, 6), torch.arange(7).expand(3, 7) > 4
    traced = fxgrow.trace(model, (query, memory, padding))
    assert list(find_sites(traced)) == [*(f"attention.{name}_proj_weight" for name in "qkv"), "attention.out_proj"]
    other = torch.arange(7).expand(3, 7) > torch.tensor([[2], [4], [6]])
    torch.testing.assert_close(traced.eval()(query, memory, other), model(query, memory, other))


LAYERS = {
    "encoder layer": lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True),
    "pre-norm, time first": lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, 12, norm_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True), 2),
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_transformer_layers_of_torch_grow_inside(build) -> None:
    x = torch.randn(3, 5, WIDTH)
    traced = fxgrow.trace(build(), x)
    sites = find_sites(traced)
    paths = ("self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2")
    assert [path.removeprefix("layers.0.") for path in sites][:4] == list(paths)
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.2)
    assert {name.partition("_pseudo_")[0] for name in fxgrow.new_parameters(grown)} >= {
        path for path in sites if "attn" in path
    }
    fxgrow.verify(traced, grown, x)


def test_encoder_and_decoder_trace_whole() -> None:
    model = nn.Transformer(WIDTH, HEADS, 1, 1, 12, batch_first=True)
    traced = fxgrow.trace(model, (torch.randn(3, 5, WIDTH), torch.randn(3, 7, WIDTH)))
    assert "encoder.layers.0.self_attn.in_proj_weight" in find_sites(traced)
    assert "decoder.layers.0.multihead_attn.out_proj" in find_sites(traced)


def test_torch_is_as_it_was_after_tracing() -> None:
    functions = nn.functional.multi_head_attention_forward, torch._check_with, torch.backends.mha.get_fastpath_enabled
    fxgrow.trace(SelfAttention(), torch.randn(3, 5, WIDTH))
    assert functions == (
        nn.functional.multi_head_attention_forward,
        torch._check_with,
        torch.backends.mha.get_fastpath_enabled,
    )
