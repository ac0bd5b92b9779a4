"""Which models the census asks: one for each timm family, torchvision's, Hugging Face's, and those of packages."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_census.inputs import BATCH, TOKENS, VOCABULARY, Input
from model_census.packages import packages

SUITES = ("timm", "torchvision", "hf", "packages")
TIMM_MODELS = Path(__file__).with_name("timm_models.json")


@dataclass(frozen=True)
class Candidate:
    """One model and how it is built and called."""

    suite: str
    family: str  #: timm's module name; of a package its distribution; elsewhere what the model is listed under
    model: str  #: the name that its library builds it by, or the callable that builds it, as ``module:name``
    inputs: Mapping[str, Input]  #: by keyword; the empty name is the one positional input
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name by which results are kept and models are chosen."""
        if self.suite != "packages":
            return f"{self.suite}:{self.model}"
        name = self.model.rpartition(".")[2].replace(":", ".").removeprefix("foreign.")
        return f"{self.suite}:{self.family}/{self.arguments.get('detector', name)}"

    @property
    def spelled_inputs(self) -> str:
        """The shapes of the inputs in one word, as in ``2x3x64x64``."""
        return ", ".join("x".join(str(size) for size in item.shape) for item in self.inputs.values())


def candidates(suite: str | None = None) -> list[Candidate]:
    """Return all candidates, or those of one suite, in a fixed order."""
    makers = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face, "packages": _packages}
    return [item for name in SUITES if suite in (None, name) for item in makers[name]()]


def one_of_each_family(suite: str | None = None) -> list[Candidate]:
    """Return the candidates of libraries, or of one suite, without those that are a bigger size of another one."""
    listed = candidates(suite) if suite else [item for item in candidates() if item.suite != "packages"]
    return [item for item in listed if item.suite != "torchvision" or item.model in TORCHVISION_FAMILIES]


def _packages() -> Iterator[Candidate]:
    for family, model, arguments, inputs in packages():
        yield Candidate("packages", family, model, inputs, arguments)


def _image(size: int, channels: int = 3) -> dict[str, Input]:
    return {"": Input((BATCH, channels, size, size))}


def _timm() -> Iterator[Candidate]:
    for family, row in json.loads(TIMM_MODELS.read_text(encoding="utf-8")).items():
        yield Candidate("timm", family, row["model"], _image(row["size"]), row["arguments"])


#: Torch-Pruning's list of 85 torchvision names holds these 17 beside classification models.
BEYOND_CLASSIFICATION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "fcn_resnet101",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "raft_large",
)
#: Classification models that torchvision has gained since that list was made.
NOT_IN_TORCH_PRUNINGS_LIST = frozenset(
    {f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")}
    | {"maxvit_t", "resnext101_64x4d", "swin_v2_b", "swin_v2_s", "swin_v2_t"}
)
#: The smallest of each family that torchvision's documentation lists; what only differs in size is left out. Detectors
#: are no family of blocks: their backbones are among these.
TORCHVISION_FAMILIES = frozenset({
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
    "wide_resnet50_2", "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "raft_large",
})  # fmt: skip
_SIZES = {"maxvit_t": 224, "inception_v3": 96, "vit_h_14": 70}


def _torchvision() -> Iterator[Candidate]:
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        size = _SIZES.get(name, 64)
        yield Candidate("torchvision", "classification", name, _image(size), _arguments(name, size))
    for name in BEYOND_CLASSIFICATION:
        yield _beyond_classification(name)


def _arguments(name: str, size: int) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": size}
    # The auxiliary heads answer in training mode only; init_weights=False is a matter of minutes.
    return {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _beyond_classification(name: str) -> Candidate:
    if name == "raft_large":
        pair = {key: Input((BATCH, 3, 128, 128)) for key in ("image1", "image2")}
        return Candidate("torchvision", "optical flow", name, pair)
    if name.startswith(("deeplab", "fcn", "lraspp")):
        arguments = {"weights": None, "weights_backbone": None}
        return Candidate("torchvision", "segmentation", name, _image(64), arguments)
    return Candidate("torchvision", "detection", name, _image(320), {"weights": None, "weights_backbone": None})


_POSITIONS = {"max_position_embeddings": 32}
#: Tiny configurations: two layers, so that blocks repeat, and a small vocabulary, so that embeddings do not weigh most.
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **_POSITIONS,
}
_DECODER = {**_TEXT, "intermediate_size": 64, "num_key_value_heads": 2, "use_cache": False}
_IMAGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_NO_CACHE = {"vocab_size": VOCABULARY, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
_HUGGING_FACE: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": ("ViTForImageClassification", {**_IMAGE, "image_size": 32, "patch_size": 8}, "image"),
    "Swin": (
        "SwinForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "image",
    ),
    "BERT": ("BertForSequenceClassification", {**_TEXT, "intermediate_size": 64}, "text"),
    "GPT-2": ("GPT2LMHeadModel", {**_NO_CACHE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}, "text"),
    "Llama": ("LlamaForCausalLM", _DECODER, "text"),
    "Mistral": ("MistralForCausalLM", _DECODER, "text"),
    "Qwen2": ("Qwen2ForCausalLM", _DECODER, "text"),
    "OPT": ("OPTForCausalLM", {**_TEXT, "ffn_dim": 64, "use_cache": False, "word_embed_proj_dim": 32}, "text"),
    "Phi": ("PhiForCausalLM", {**_DECODER, "num_key_value_heads": 4}, "text"),
    "T5": (
        "T5ForConditionalGeneration",
        {**_NO_CACHE, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "pair of texts",
    ),
    "DistilBERT": (
        "DistilBertForMaskedLM",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, **_POSITIONS},
        "text",
    ),
    "DINOv2": ("Dinov2Model", {**_IMAGE, "image_size": 32, "patch_size": 8, "mlp_ratio": 2}, "image"),
}


def _hugging_face() -> Iterator[Candidate]:
    text = Input((BATCH, TOKENS), VOCABULARY)
    inputs = {
        "image": {"pixel_values": Input((BATCH, 3, 32, 32))},
        "text": {"input_ids": text},
        "pair of texts": {"input_ids": text, "decoder_input_ids": text},
    }
    for family, (model, config, kind) in _HUGGING_FACE.items():
        yield Candidate("hf", family, model, inputs[kind], config)
