"""The fixed sample that the tests run: small models, chosen for what makes them hard, as small as they go."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model_census.candidates import Candidate, candidates
from model_census.inputs import BATCH, Input

_HERE = "model_census.foreign"
_VIT = {"depth": 1, "dim": 16, "mlp_dim": 32, "patch_size": 16}
_LAYER = {"num_hidden_layers": 1}


@dataclass(frozen=True)
class _Choice:
    """Why a model is in the sample, and what makes it smaller than in the full census."""

    reason: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None  #: of its images


#: models of the full census
_CHOICES = {
    "timm:resnet10t": _Choice(
        "operations in place, BatchNorm statistics, blocks that start behind a zero gate",
        {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_width": 8},
        32,
    ),
    "timm:vit_tiny_patch16_224": _Choice(
        "attention with dropout, parameters read by get_attr, a functional LayerNorm",
        {"depth": 1, "img_size": 32, "embed_dim": 24},
        32,
    ),
    "timm:levit_128s": _Choice(
        "attention biases that are cached in eval mode only: the two modes differ in structure",
        {"depth": (1,), "embed_dim": (16,), "num_heads": (2,), "key_dim": 4, "img_size": 32},
        32,
    ),
    "timm:xcit_nano_12_p8_224": _Choice(
        "sizes that forward computes, cross-covariance attention, BatchNorm between tokens",
        {"depth": 1, "cls_attn_layers": 1, "embed_dim": 32, "img_size": 32},
        32,
    ),
    "timm:efficientvim_m1": _Choice(
        "a state space instead of attention",
        {"depths": (1,), "embed_dim": (16,), "state_dim": (9,)},
        64,
    ),
    "hf:GPT2LMHeadModel": _Choice(
        "products with transposed weights, tied embeddings, a mask, a dataclass as output", {"n_layer": 1}
    ),
    "hf:T5ForConditionalGeneration": _Choice(
        "two inputs, an encoder that a decoder reads, relative positions", {"num_layers": 1}
    ),
    "hf:LlamaForCausalLM": _Choice("rotary positions, grouped keys, gated units", _LAYER),
    "packages:vit-pytorch/vit.ViT": _Choice("einops in attention, and a class token that is repeated", _VIT),
    "packages:vit-pytorch/simple_vit_with_patch_dropout.SimpleViT": _Choice(
        "patches that are dropped at random in training", _VIT
    ),
    "packages:vit-pytorch/cct.CCT": _Choice("convolutions for patches, stochastic depth", {"embedding_dim": 16}),
    "packages:vit-pytorch/simple_vit_with_register_tokens.SimpleViT": _Choice(
        "tokens put in front by einops.pack", _VIT
    ),
    "packages:vit-pytorch/nest.NesT": _Choice("blocks of an image folded into the batch and back, by einops"),
    "packages:vit-pytorch/simple_vit_with_qk_norm.SimpleViT": _Choice("norms of queries and keys, with scales", _VIT),
    "packages:vit-pytorch/xcit.XCiT": _Choice("attention between channels, by einops", _VIT),
    "packages:rtdl_revisiting_models/rtdl_resnet": _Choice("a table, BatchNorm, dropout twice", {"depth": 1}),
    "packages:rtdl_revisiting_models/ft_transformer": _Choice(
        "two inputs, embeddings of categories, attention over features", {"depth": 1}
    ),
    "packages:nanoGPT-like/nano_gpt": _Choice(
        "the loss inside, tied ends, a sequence's length that is decided on", {"depth": 1}
    ),
    "packages:transformers/mamba2": _Choice(
        "a state space in plain PyTorch, with sizes that are calculated", {"depth": 1}
    ),
    "packages:transformers/bert_with_labels": _Choice("labels as an input, a loss that forward makes", {"depth": 1}),
}
_GHOST = [[[3, 8, 8, 0, 1]], [[3, 16, 12, 0.25, 2]]]
#: models whose families cannot be made smaller by arguments: of the same code, but built here
_BUILT = (
    ("timm", f"{_HERE}:mobilevit", {}, 32, "tokens folded out of an image and back, by the sizes of the input"),
    (
        "timm", "timm.models.ghostnet:GhostNet", {"cfgs": _GHOST, "num_classes": 10}, 32,
        "channels cut off by slices, depthwise convolutions",
    ),
    (
        "torchvision", "torchvision.models.shufflenetv2:ShuffleNetV2",
        {"stages_repeats": (2, 1, 1), "stages_out_channels": (8, 16, 24, 32, 48), "num_classes": 10}, 64,
        "channels that are shuffled and split",
    ),
    (
        "torchvision", "torchvision.models.densenet:DenseNet",
        {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 16, "num_classes": 10}, 64,
        "branches that are concatenated, and a forward that decides by the type of what it gets",
    ),
)  # fmt: skip


def sample() -> list[Candidate]:
    """Return the models of the sample, those of libraries in front."""
    return sorted((*_of_the_census(), *_built()), key=lambda item: item.suite == "packages")


def _of_the_census() -> Iterator[Candidate]:
    by_key = {item.key: item for item in candidates()}
    for key, choice in _CHOICES.items():
        item = by_key[key]
        inputs = _image(choice.size) if choice.size else item.inputs
        yield replace(item, arguments={**item.arguments, **choice.arguments}, inputs=inputs)


def _built() -> Iterator[Candidate]:
    for suite, model, arguments, size, _ in _BUILT:
        yield Candidate(suite, suite, model, _image(size), arguments)


def _image(size: int) -> dict[str, Input]:
    return {"": Input((BATCH, 3, size, size))}
