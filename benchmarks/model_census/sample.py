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
}


def sample() -> list[Candidate]:
    """Return the models of the sample."""
    by_key = {item.key: item for item in candidates()}
    return [by_key[key] for key in REASONS]
