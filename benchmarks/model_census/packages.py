"""Models of other people's packages: small ones, each with the inputs that it takes."""

from collections.abc import Iterator, Mapping
from typing import Any

from model_census.inputs import BATCH, VOCABULARY, Input

Inputs = dict[str, Input]
#: a distribution's name, and by name the callable that builds a model, its arguments, and its inputs
Entry = tuple[str, str, Mapping[str, Any], Inputs]

_HERE = "model_census.foreign"
_VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
_FOUR_STAGES = {"dim": (16, 32, 48, 64), "depth": (1, 1, 1, 1)}
_CROSS = {"s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 32, "s1_depth": 1, "s2_depth": 1, "s3_depth": 1}


def _image(size: int, channels: int = 3) -> Inputs:
    return {"": Input((BATCH, channels, size, size))}


def _tokens(name: str, length: int = 12) -> Inputs:
    return {name: Input((BATCH, length), VOCABULARY)}


#: vit-pytorch: module and class, the arguments that are not those of `_VIT`, and the size of the images
_VIT_PYTORCH: dict[str, tuple[Mapping[str, Any], int]] = {
    "vit:ViT": (_VIT, 32),
    "simple_vit:SimpleViT": (_VIT, 32),
    "simple_vit_with_register_tokens:SimpleViT": (_VIT, 32),
    "simple_vit_with_qk_norm:SimpleViT": (_VIT, 32),
    "simple_vit_with_patch_dropout:SimpleViT": (_VIT, 32),
    "vit_with_patch_dropout:ViT": ({**_VIT, "patch_dropout": 0.25}, 32),
    "vit_with_patch_merger:ViT": ({**_VIT, "patch_merge_layer": 1, "patch_merge_num_tokens": 4}, 32),
    "vit_for_small_dataset:ViT": (_VIT, 32),
    "deepvit:DeepViT": (_VIT, 32),
    "parallel_vit:ViT": (_VIT, 32),
    "rvt:RvT": (_VIT, 32),
    "cait:CaiT": ({**_VIT, "cls_depth": 1, "layer_dropout": 0.05}, 32),
    "t2t:T2TViT": ({"dim": 32, "image_size": 64, "depth": 2, "heads": 2, "mlp_dim": 64, "num_classes": 10}, 64),
    "cct:CCT": (
        {"img_size": 32, "embedding_dim": 32, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2, "num_classes": 10},
        32,
    ),
    "cross_vit:CrossViT": (
        {
            "image_size": 64, "num_classes": 10, "depth": 1, "sm_dim": 32, "lg_dim": 32, "sm_patch_size": 8,
            "sm_enc_depth": 1, "sm_enc_heads": 2, "sm_enc_mlp_dim": 64, "lg_patch_size": 16, "lg_enc_depth": 1,
            "lg_enc_heads": 2, "lg_enc_mlp_dim": 64, "cross_attn_depth": 1, "cross_attn_heads": 2,
        },
        64,
    ),
    "pit:PiT": (
        {"image_size": 64, "patch_size": 8, "dim": 32, "num_classes": 10, "depth": (1, 1), "heads": 2, "mlp_dim": 64},
        64,
    ),
    "levit:LeViT": (
        {"image_size": 64, "num_classes": 10, "stages": 2, "dim": (32, 48), "depth": 1, "heads": (2, 4), "mlp_mult": 2},
        64,
    ),
    "cvt:CvT": ({"num_classes": 10, **_CROSS}, 64),
    "twins_svt:TwinsSVT": (
        {
            "num_classes": 10, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 32, "s4_emb_dim": 32, "s3_depth": 1,
            "s1_local_patch_size": 4, "s2_local_patch_size": 4, "s3_local_patch_size": 4, "s4_local_patch_size": 2,
            "s1_patch_size": 4, "s2_patch_size": 2, "s3_patch_size": 2, "s4_patch_size": 2,
            "s1_global_k": 4, "s2_global_k": 4, "s3_global_k": 4, "s4_global_k": 2,
        },
        64,
    ),
    "crossformer:CrossFormer": (
        {
            "num_classes": 10, "dim": (64, 64, 64, 64), "depth": (1, 1, 1, 1), "global_window_size": (4, 2, 2, 1),
            "local_window_size": 2,
        },
        64,
    ),
    "regionvit:RegionViT": ({"num_classes": 10, **_FOUR_STAGES, "window_size": 2}, 64),
    "scalable_vit:ScalableViT": (
        {
            "num_classes": 10, "dim": 32, "heads": (2, 4), "depth": (1, 1), "ssa_dim_key": (16, 16),
            "reduction_factor": (2, 1), "window_size": (8, None), "dropout": 0.1,
        },
        64,
    ),
    "sep_vit:SepViT": (
        {"num_classes": 10, "dim": 16, "dim_head": 8, "heads": (1, 2), "depth": (1, 1)},
        112,
    ),
    "max_vit:MaxViT": (
        {"num_classes": 10, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 1), "window_size": 4},
        64,
    ),
    "nest:NesT": (
        {
            "image_size": 32, "patch_size": 4, "dim": 16, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1),
            "num_classes": 10,
        },
        32,
    ),
    "mobile_vit:MobileViT": (
        {
            "image_size": (64, 64), "dims": [24, 32, 48], "num_classes": 10,
            "channels": [8, 8, 16, 16, 24, 24, 32, 32, 48, 48, 64],
        },
        64,
    ),
    "xcit:XCiT": ({**_VIT, "cls_depth": 1}, 32),
    "vit_1d:ViT": ({**{name: value for name, value in _VIT.items() if name != "image_size"}, "seq_len": 64}, 0),
}  # fmt: skip


def packages() -> Iterator[Entry]:
    """Yield the models, package by package."""
    for kind in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus"):
        arguments = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 4}
        yield (
            "segmentation-models-pytorch",
            f"segmentation_models_pytorch:{kind}",
            arguments,
            _image(128 if kind == "PAN" else 64),
        )
    for name, (arguments, size) in _VIT_PYTORCH.items():
        inputs = _image(size) if size else {"": Input((BATCH, 3, 64))}
        yield "vit-pytorch", f"vit_pytorch.{name}", arguments, inputs
    for name, inputs in {
        "x_encoder": _tokens("x"),
        "x_decoder": _tokens("x"),
        "x_rotary": _tokens("x"),
        "x_glu": _tokens("x"),
        "x_vit": {"img": Input((BATCH, 3, 32, 32))},
    }.items():
        yield "x-transformers", f"{_HERE}:{name}", {}, inputs
    for name in ("open_clip", "open_clip_custom_text", "coca"):
        pair = {"image": Input((BATCH, 3, 32, 32)), "text": Input((BATCH, 12), VOCABULARY)}
        yield "open_clip_torch", f"{_HERE}:{name}", {}, pair
    yield from _diffusers()
    yield from _audio()
    yield from _tables_and_others()


def _diffusers() -> Iterator[Entry]:
    noisy = {"sample": Input((BATCH, 4, 16, 16)), "timestep": Input((BATCH,), 100)}
    text = {"encoder_hidden_states": Input((BATCH, 6, 16))}
    labels = {"hidden_states": noisy["sample"], "timestep": noisy["timestep"], "class_labels": Input((BATCH,), 10)}
    for name, inputs in {
        "unet_2d": noisy,
        "unet_2d_condition": {**noisy, **text},
        "unet_2d_class": {**noisy, "class_labels": Input((BATCH,), 10)},
        "dit": labels,
        "vae": {"sample": Input((BATCH, 3, 16, 16))},
        "vq_model": {"sample": Input((BATCH, 3, 16, 16))},
    }.items():
        yield "diffusers", f"{_HERE}:{name}", {}, inputs


def _audio() -> Iterator[Entry]:
    conformer = {"input_dim": 16, "num_heads": 2, "ffn_dim": 32, "num_layers": 2, "depthwise_conv_kernel_size": 7}
    sequence = {"input": Input((BATCH, 10, 16)), "lengths": Input((BATCH,), at=(10, 7))}
    yield "torchaudio", "torchaudio.models:Conformer", conformer, sequence
    tasnet = {
        "enc_num_feats": 16,
        "msk_num_feats": 8,
        "msk_num_hidden_feats": 16,
        "msk_num_layers": 2,
        "msk_num_stacks": 1,
    }
    yield "torchaudio", "torchaudio.models:ConvTasNet", tasnet, {"": Input((BATCH, 1, 320))}
    yield "torchaudio", f"{_HERE}:wav2vec2", {}, {"waveforms": Input((BATCH, 1600))}
    yield "torchaudio", "torchaudio.models:Wav2Letter", {"num_classes": 10}, {"": Input((BATCH, 1, 3200))}
    yield (
        "torchaudio",
        "torchaudio.models:DeepSpeech",
        {"n_feature": 16, "n_hidden": 32},
        {"": Input((BATCH, 1, 8, 16))},
    )


def _tables_and_others() -> Iterator[Entry]:
    row = {"": Input((BATCH, 12))}
    yield "rtdl_revisiting_models", f"{_HERE}:rtdl_mlp", {}, row
    yield "rtdl_revisiting_models", f"{_HERE}:rtdl_resnet", {}, row
    both = {"x_cont": Input((BATCH, 6)), "x_cat": Input((BATCH, 2), 3)}
    yield "rtdl_revisiting_models", f"{_HERE}:ft_transformer", {}, both
    yield "pytorch-tabnet", f"{_HERE}:tabnet", {}, row
    yield "kornia", "kornia.feature:HardNet", {"pretrained": False}, _image(32, 1)
    yield "kornia", "kornia.feature:SOSNet", {"pretrained": False}, _image(32, 1)
    yield "kornia", "kornia.feature:HyNet", {"pretrained": False}, _image(32, 1)
    yield "kornia", f"{_HERE}:tiny_vit", {}, _image(64)
    yield "efficientnet-pytorch", f"{_HERE}:efficientnet", {}, _image(64)
    yield "nanoGPT-like", f"{_HERE}:nano_gpt", {}, {**_tokens("ids"), **_tokens("targets")}
    yield "transformers", f"{_HERE}:mamba", {}, _tokens("input_ids")
    yield "transformers", f"{_HERE}:mamba2", {}, _tokens("input_ids")
    yield "transformers", f"{_HERE}:bert_with_labels", {}, {**_tokens("input_ids"), "labels": Input((BATCH,), 3)}
    for name in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"):
        size = 300 if name.startswith("ssd") else 64
        yield "torchvision", f"{_HERE}:detection_backbone", {"detector": name}, _image(size)
