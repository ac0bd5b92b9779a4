"""Builders of models whose packages want more than keyword arguments; small ones, with random weights."""

from typing import Any

import torch
from torch import nn

from model_census.inputs import VOCABULARY
from model_census.nano_gpt import nano_gpt as nano_gpt


def x_encoder() -> nn.Module:
    """An encoder of x-transformers over tokens."""
    return _x_transformer("Encoder")


def x_decoder() -> nn.Module:
    """A causal decoder of x-transformers."""
    return _x_transformer("Decoder")


def x_rotary() -> nn.Module:
    """A decoder with rotary positions and root mean square norms."""
    return _x_transformer("Decoder", rotary_pos_emb=True, use_rmsnorm=True)


def x_glu() -> nn.Module:
    """An encoder with gated units."""
    return _x_transformer("Encoder", ff_glu=True, ff_swish=True)


def _x_transformer(kind: str, **options: Any) -> nn.Module:
    import x_transformers

    layers = getattr(x_transformers, kind)(dim=32, depth=2, heads=2, attn_dim_head=16, **options)
    model: nn.Module = x_transformers.TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=32, attn_layers=layers)
    return model


def x_vit() -> nn.Module:
    """A vision transformer of x-transformers."""
    import x_transformers

    layers = x_transformers.Encoder(dim=32, depth=2, heads=2, attn_dim_head=16)
    model: nn.Module = x_transformers.ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, attn_layers=layers
    )
    return model


_VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
_TEXT = {"context_length": 12, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2}


def open_clip() -> nn.Module:
    """CLIP as open_clip builds it."""
    from open_clip.model import CLIP

    model: nn.Module = CLIP(16, _VISION, _TEXT)
    return model


def open_clip_custom_text() -> nn.Module:
    """CLIP with a text tower of its own."""
    from open_clip.model import CustomTextCLIP

    model: nn.Module = CustomTextCLIP(16, _VISION, _TEXT)
    return model


def coca() -> nn.Module:
    """A captioner with a contrastive loss."""
    from open_clip.coca_model import CoCa

    decoder = {**_TEXT, "mlp_ratio": 2, "n_queries": 8, "attn_pooler_heads": 2}
    text = {**_TEXT, "embed_cls": True, "output_tokens": True}
    model: nn.Module = CoCa(32, decoder, text, {**_VISION, "output_tokens": True})
    return model


_UNET = {"sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 8}


def unet_2d() -> nn.Module:
    """A UNet of diffusion with attention in its lower half."""
    import diffusers

    model: nn.Module = diffusers.UNet2DModel(
        **_UNET, block_out_channels=(16, 32), attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model


def unet_2d_class() -> nn.Module:
    """The same, told which class to draw."""
    import diffusers

    model: nn.Module = diffusers.UNet2DModel(
        **_UNET, block_out_channels=(16, 32), num_class_embeds=10, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model


def unet_2d_condition() -> nn.Module:
    """A UNet that reads a text, as Stable Diffusion's."""
    import diffusers

    model: nn.Module = diffusers.UNet2DConditionModel(
        **_UNET, block_out_channels=(16, 32), cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model


def dit() -> nn.Module:
    """A diffusion transformer."""
    import diffusers

    model: nn.Module = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=2, sample_size=16,
        norm_num_groups=8, num_embeds_ada_norm=10,
    )  # fmt: skip
    return model


def vae() -> nn.Module:
    """The autoencoder of latent diffusion."""
    import diffusers

    block = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model: nn.Module = diffusers.AutoencoderKL(
        **block, block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4
    )
    return model


def vq_model() -> nn.Module:
    """An autoencoder that quantises its latents."""
    import diffusers

    block = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model: nn.Module = diffusers.VQModel(**block, block_out_channels=(8, 16), norm_num_groups=4, num_vq_embeddings=16)
    return model


def wav2vec2() -> nn.Module:
    """wav2vec 2.0 with small layers."""
    from torchaudio.models import wav2vec2_model

    model: nn.Module = wav2vec2_model(
        extractor_mode="group_norm", extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
        extractor_conv_bias=False, encoder_embed_dim=32, encoder_projection_dropout=0.1, encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2, encoder_num_layers=2, encoder_num_heads=2, encoder_attention_dropout=0.1,
        encoder_ff_interm_features=64, encoder_ff_interm_dropout=0.1, encoder_dropout=0.1,
        encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=10,
    )  # fmt: skip
    return model


def rtdl_mlp() -> nn.Module:
    """A multilayer perceptron for tables."""
    import rtdl_revisiting_models as rtdl

    model: nn.Module = rtdl.MLP(d_in=12, d_out=4, n_blocks=2, d_block=32, dropout=0.1)
    return model


def rtdl_resnet(depth: int = 2) -> nn.Module:
    """A residual network for tables."""
    import rtdl_revisiting_models as rtdl

    model: nn.Module = rtdl.ResNet(
        d_in=12, d_out=4, n_blocks=depth, d_block=32, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0
    )
    return model


def ft_transformer(depth: int = 2) -> nn.Module:
    """A transformer over the features of a table."""
    import rtdl_revisiting_models as rtdl

    backbone = {
        "d_out": 4, "n_blocks": depth, "d_block": 32, "attention_n_heads": 4, "attention_dropout": 0.1,
        "ffn_d_hidden_multiplier": 4 / 3, "ffn_dropout": 0.1, "residual_dropout": 0.0,
    }  # fmt: skip
    model: nn.Module = rtdl.FTTransformer(n_cont_features=6, cat_cardinalities=[3, 3], **backbone)
    return model


def tabnet() -> nn.Module:
    """TabNet, which chooses features of a table step by step."""
    from pytorch_tabnet.tab_network import TabNet

    model: nn.Module = TabNet(12, 4, group_attention_matrix=torch.eye(12))
    return model


def tiny_vit() -> nn.Module:
    """TinyViT of kornia."""
    from kornia.contrib import TinyViT

    model: nn.Module = TinyViT(
        img_size=64, num_classes=10, embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4),
        window_sizes=(4, 4, 4, 2),
    )  # fmt: skip
    return model


def efficientnet() -> nn.Module:
    """EfficientNet as efficientnet-pytorch builds it, with padding by the size of the image."""
    from efficientnet_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-b0", num_classes=10)
    return model


def mamba() -> nn.Module:
    """Mamba in plain PyTorch."""
    import transformers

    sizes = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "intermediate_size": 64, "use_cache": False}
    model: nn.Module = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=VOCABULARY, **sizes))
    return model


def mamba2(depth: int = 2) -> nn.Module:
    """Mamba 2 in plain PyTorch."""
    import transformers

    sizes = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": depth, "use_cache": False, "num_heads": 4}
    config = transformers.Mamba2Config(vocab_size=VOCABULARY, head_dim=16, n_groups=2, chunk_size=8, **sizes)
    model: nn.Module = transformers.Mamba2ForCausalLM(config)
    return model


def bert_with_labels(depth: int = 2) -> nn.Module:
    """BERT that computes its loss from labels."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": depth, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, num_labels=3, **sizes)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def mobilevit() -> nn.Module:
    """MobileViT as timm builds it, of one block of convolutions and one of attention."""
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    inverted = {"bottle_in": True, "linear_out": True}
    attention = {"transformer_dim": 16, "transformer_depth": 1, "patch_size": 2}
    blocks = (
        ByoBlockCfg("bottle", d=1, c=8, s=2, gs=1, br=2.0, block_kwargs=inverted),
        ByoBlockCfg("mobilevit", d=1, c=8, s=1, block_kwargs=attention),
    )
    config = ByoModelCfg(
        blocks=blocks, stem_chs=8, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=32
    )
    model: nn.Module = ByobNet(config, num_classes=10)
    return model


def detection_backbone(detector: str) -> nn.Module:
    """The backbone of one of torchvision's detectors, which is traced and put back in its place."""
    import torchvision

    model = torchvision.models.get_model(detector, weights=None, weights_backbone=None)
    backbone: nn.Module = model.backbone
    return backbone
