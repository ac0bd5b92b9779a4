"""nn.MultiheadAttention and what is made of it: traced inside, in both modes, and grown there."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.sites import find_sites
from fxgrow.graph.wholes import find_wholes
from fxgrow.record.record import record_of
from fxgrow.testing import Draws, random_scores

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


def _causal(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()


MASKS: dict[str, Callable[[Tensor], dict[str, object]]] = {
    "causal, made from a size": lambda x: {"attn_mask": _causal(x)},
    "added": lambda x: {"attn_mask": torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)},
    "from the values": lambda x: {"attn_mask": (x[..., 0] < 0.5)[:, None, None]},
    "is_causal": lambda x: {"is_causal": True},
}


class Functional(nn.Module):
    """Attention by the function alone, with a mask that forward makes."""

    def __init__(self, mask: Callable[[Tensor], dict[str, object]]) -> None:
        super().__init__()
        self.qkv, self.proj, self.mask = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), mask

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, **self.mask(x))
        return self.proj(attended.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_is_made_in_forward_holds_for_other_samples_and_the_projections_are_sites(name: str) -> None:
    draws = Draws(0, torch.float32)
    model = Functional(MASKS[name])
    traced = fxgrow.trace(model, draws.normal(3, 5, WIDTH))
    assert list(find_sites(traced)) == ["qkv", "proj"]
    other = draws.normal(4, 5, WIDTH)
    torch.testing.assert_close(traced(other), model(other))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, 12, 0.0, batch_first=True), 1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.inner(x, memory, tgt_mask=mask, tgt_is_causal=True, memory_key_padding_mask=memory[..., 0] > 0.5)


def test_masks_of_a_decoder_hold_for_other_samples_and_what_crosses_is_told() -> None:
    draws = Draws(0, torch.float32)
    model = Decoder()
    traced = fxgrow.trace(model, (draws.normal(2, 5, WIDTH), draws.normal(2, 4, WIDTH)))
    assert "inner.layers.0.self_attn.in_proj_weight" in find_sites(traced)
    assert find_wholes(traced) == {"inner.layers.0.multihead_attn": "its weight is computed in forward"}
    other = draws.normal(3, 5, WIDTH), draws.normal(3, 4, WIDTH)
    torch.testing.assert_close(traced(*other), model(*other))


def test_torch_is_as_it_was_after_tracing() -> None:
    functions = nn.functional.multi_head_attention_forward, torch._check_with, torch.backends.mha.get_fastpath_enabled
    fxgrow.trace(SelfAttention(), torch.randn(3, 5, WIDTH))
    assert functions == (
        nn.functional.multi_head_attention_forward,
        torch._check_with,
        torch.backends.mha.get_fastpath_enabled,
    )
