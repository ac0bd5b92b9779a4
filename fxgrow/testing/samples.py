"""Small models that between them have what makes rewriting hard: what a pass should be tried on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.execution.randomness import preserved_randomness
from fxgrow.testing.draws import Draws


@dataclass(frozen=True)
class SampleModel:
    """A small model, built on demand."""

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]  #: without the batch dimension

    def make(self, *, seed: int = 0, batch_size: int = 2, dtype: torch.dtype = torch.float32) -> "Made":
        """Build the model in train mode, its norms' statistics and weights included drawn at random, and inputs for it.

        Args:
            seed: Seed of weights and inputs; the global random state is untouched.
            batch_size: Leading dimension of the inputs.
            dtype: Dtype of weights and inputs.

        Returns:
            The model and a tuple of example inputs.
        """
        draws = Draws(seed, dtype)
        with preserved_randomness(seed):
            model = self.build()
        unsettle_norms(model, draws)
        return model.to(dtype).train(), (draws.normal(batch_size, *self.input_shape),)


#: a model and its example inputs
Made = tuple[nn.Module, tuple[Tensor, ...]]


def sample_models() -> dict[str, SampleModel]:
    """Return the sample models by name.

    Example:
        >>> model, inputs = sample_models()["mlp"].make()
        >>> model(*inputs).shape
        torch.Size([2, 4])
    """
    samples = (
        SampleModel("mlp", _mlp, (6,)),
        SampleModel("resnet", _ResNet, (3, 8, 8)),
        SampleModel("vit", _vit, (3, 16, 16)),
        SampleModel("convolutions", _convolutions, (4, 9, 9)),
        SampleModel("reused", _Reused, (6,)),
        SampleModel("tied", _Tied, (6,)),
        SampleModel("functional", _Functional, (6,)),
        SampleModel("attention", _Attention, (5, 8)),
        SampleModel("multihead", _MultiheadAttention, (5, 8)),
        SampleModel("dense", _Dense, (4, 6, 6)),
    )
    return {sample.name: sample for sample in samples}


def unsettle_norms(model: nn.Module, draws: Draws) -> None:
    """Give norms random weights, biases and statistics, so that none of them is close to the identity."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias):
                    tensor.add_(0.2 * draws.normal(*tensor.shape))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.get_buffer("running_mean").copy_(0.3 * draws.normal(module.num_features))
                module.get_buffer("running_var").copy_(draws.uniform(module.num_features, low=0.5, high=1.5))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 4))


def _vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=4, proj_drop_rate=0.1
    )


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, output_padding=1),
        nn.GELU(),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class _Block(nn.Module):
    """A residual block with in-place activations, as in torchvision."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class _ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(_Block(6, 6, 1), _Block(6, 8, 2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.mean((2, 3)))


class _Reused(nn.Module):
    """One Linear, and one whole block, called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU())
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.block(x)
        return self.mix(self.mix(x).tanh())


class _Tied(nn.Module):
    """A decoder with the encoder's weight, and two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.decoder.weight = self.encoder.weight
        self.free = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(F.gelu(self.free(F.gelu(self.encoder(x)))))


class _Functional(nn.Module):
    """Parameters read by get_attr: a functional Linear, a functional norm, and a free scale."""

    def __init__(self) -> None:
        super().__init__()
        hidden, out = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)
        self.weight, self.bias, self.out = hidden.weight, hidden.bias, out.weight
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 10))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(F.linear(x, self.weight, self.bias))
        return F.linear(F.layer_norm(hidden, (10,), self.scale), self.out)


class _Attention(nn.Module):
    """Pre-norm attention with separate q, k and v, dropout in train mode only, and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.proj(mixed), 0.1, training=self.training)
        h = self.norm2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(x.mean(1))


class _MultiheadAttention(nn.Module):
    """The encoder layer of torch.nn, whose attention is functional and has time before batch inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class _Dense(nn.Module):
    """Concatenation as in DenseNet, beside a long skip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm = nn.GroupNorm(3, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.conv1(x), inplace=True)
        second = F.gelu(self.conv2(torch.cat((x, first), 1)))
        joined = self.norm(torch.cat((x, first, second + first), 1))
        return self.head(joined.amax((2, 3)))
