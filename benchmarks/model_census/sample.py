"""The fixed sample that the tests run: small models, chosen for what makes them hard."""

from model_census.candidates import Candidate, candidates

#: The models, and why each of them is here.
REASONS = {
    "timm:resnet10t": "operations in place, BatchNorm statistics, blocks that start behind a zero gate",
    "timm:vit_tiny_patch16_224": "attention with dropout, parameters read by get_attr, a functional LayerNorm",
    "timm:levit_128s": "attention biases that are cached in eval mode only: the two modes differ in structure",
    "timm:xcit_nano_12_p8_224": "sizes that forward computes, cross-covariance attention, BatchNorm between tokens",
    "timm:mobilevit_xxs": "tokens folded out of an image and back, by the sizes of the input",
    "timm:efficientvim_m1": "a state space instead of attention",
    "timm:ghostnet_050": "channels cut off by slices, depthwise convolutions",
    "torchvision:shufflenet_v2_x0_5": "channels that are shuffled and split",
    "torchvision:googlenet": "concatenated branches, a forward that answers differently in the two modes",
    "hf:GPT2LMHeadModel": "products with transposed weights, tied embeddings, a mask, a dataclass as output",
    "hf:T5ForConditionalGeneration": "two inputs, an encoder that a decoder reads, relative positions",
    "hf:LlamaForCausalLM": "rotary positions, grouped keys, gated units",
    "packages:vit-pytorch/vit.ViT": "einops in attention, and a class token that is repeated",
    "packages:vit-pytorch/simple_vit_with_patch_dropout.SimpleViT": "patches that are dropped at random in training",
    "packages:vit-pytorch/cct.CCT": "convolutions for patches, stochastic depth",
    "packages:vit-pytorch/simple_vit_with_register_tokens.SimpleViT": "tokens put in front by einops.pack",
    "packages:vit-pytorch/nest.NesT": "blocks of an image folded into the batch and back, by einops",
    "packages:vit-pytorch/simple_vit_with_qk_norm.SimpleViT": "norms of queries and keys, with scales",
    "packages:vit-pytorch/xcit.XCiT": "attention between channels, by einops",
    "packages:rtdl_revisiting_models/rtdl_resnet": "a table, BatchNorm, dropout twice",
    "packages:rtdl_revisiting_models/ft_transformer": "two inputs, embeddings of categories, attention over features",
    "packages:nanoGPT-like/nano_gpt": "the loss inside, tied ends, a sequence's length that is decided on",
    "packages:transformers/mamba2": "a state space in plain PyTorch, with sizes that are calculated",
    "packages:transformers/bert_with_labels": "labels as an input, a loss that forward makes",
}


def sample() -> list[Candidate]:
    """Return the models of the sample."""
    by_key = {item.key: item for item in candidates()}
    return [by_key[key] for key in REASONS]
