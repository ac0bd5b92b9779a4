"""The networks of the study: residual blocks between a stem and a head, described by data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """One residual block: how many heads its attention has (0: none) and how many hidden units its MLP (0: none)."""

    heads: int = 0
    hidden: int = 0

    def mlp(self, architecture: "Architecture") -> "Mlp":
        """Return the MLP branch of such a block."""
        return Mlp(architecture, self.hidden)


@dataclass(frozen=True)
class Architecture:
    """What all networks of a task share: everything but the blocks."""

    tokens: int  #: positions of the residual stream
    features: int  #: numbers that the stem reads at a position; for text, how many characters there are
    outputs: int
    width: int = 32
    head_width: int = 8
    kernel: int = 1  #: positions that a hidden unit of an MLP reads: 3 makes it a convolution
    text: bool = False  #: the input are characters, and each position predicts the next one

    def stem(self) -> nn.Module:
        """Return what reads the input, (samples, tokens, features) or characters, into the stream."""
        return (nn.Embedding if self.text else Linear)(self.features, self.width)


@dataclass(frozen=True)
class ConvolutionalArchitecture(Architecture):
    """The same with square images read by three convolutions in place of one linear map of each patch.

    As Xiao et al., NeurIPS 2021 (arXiv 2106.14881): 3 x 3 kernels of stride 2 with activations between them.
    """

    def stem(self) -> nn.Module:
        """Return the convolutions, from patches of an image to the stream."""
        return ConvolutionalStem(self.tokens, self.features, self.width)


class Linear(nn.Linear):
    """A linear map that sees all positions as one matrix: under ``vmap`` that is one product for each seed."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of each position."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class Convolution(Linear):
    """A convolution 3 x 3 of stride 2 and padding 1, channels last; as a product it is faster under ``vmap``."""

    def __init__(self, reads: int, makes: int) -> None:
        super().__init__(9 * reads, makes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, about half of the rows, half of the columns, channels)."""
        rows, columns = ((size - 1) // 2 + 1 for size in x.shape[1:3])
        x = F.pad(x, (0, 0, 1, 1, 1, 1))
        seen = [x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)]
        return super().forward(torch.cat([part[:, :rows, :columns] for part in seen], dim=-1))


class ConvolutionalStem(nn.Module):
    """Three convolutions that halve a square image each: 28 x 28 pixels become 4 x 4 tokens."""

    def __init__(self, tokens: int, features: int, width: int) -> None:
        super().__init__()
        self.grid, self.patch = isqrt(tokens), isqrt(features)
        sizes = (1, width // 4, width // 2, width)
        self.convolutions = nn.ModuleList(Convolution(*each) for each in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream, (samples, tokens, width), of patches, (samples, tokens, features)."""
        x = x.unflatten(2, (self.patch, self.patch)).unflatten(1, (self.grid, self.grid))
        x = x.transpose(2, 3).reshape(-1, self.grid * self.patch, self.grid * self.patch, 1)
        first, *others = self.convolutions
        x = first(x)
        for convolution in others:
            x = convolution(F.gelu(x))
        return x.flatten(1, 2)


class Mlp(nn.Module):
    """The branch out(GELU(fc1(norm(x)))); with ``kernel`` k each hidden unit reads k neighbouring positions."""

    def __init__(self, architecture: Architecture, hidden: int) -> None:
        super().__init__()
        self.kernel = architecture.kernel
        self.norm = nn.LayerNorm(architecture.width)
        self.fc1 = Linear(architecture.kernel * architecture.width, hidden)
        self.out = Linear(hidden, architecture.width)

    def read(self, x: Tensor) -> Tensor:
        """Return what the first map reads, (samples, tokens, kernel x width)."""
        x = self.norm(x)
        if self.kernel > 1:
            padded = F.pad(x, (0, 0, self.kernel // 2, self.kernel // 2))
            shifted = [padded[:, shift : shift + x.shape[1]] for shift in range(self.kernel)]
            x = torch.cat(shifted, dim=-1)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Return what the last map reads, (samples, tokens, hidden)."""
        return F.gelu(self.fc1(self.read(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the branch adds to the stream."""
        return self.out(self.features(x))


class Attention(nn.Module):
    """The branch out(attention(norm(x))), causal on text."""

    def __init__(self, architecture: Architecture, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width, self.causal = heads, architecture.head_width, architecture.text
        inner = heads * architecture.head_width
        self.norm = nn.LayerNorm(architecture.width)
        self.qkv = Linear(architecture.width, 3 * inner)
        self.out = Linear(inner, architecture.width)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last map reads, (samples, tokens, heads x head width)."""
        samples, tokens, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(samples, tokens, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = q @ k.transpose(-1, -2) * self.head_width**-0.5
        if self.causal:
            hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            weights = weights.masked_fill(hidden, -torch.inf)
        mixed = weights.softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(samples, tokens, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the branch adds to the stream."""
        return self.out(self.features(x))


class Block(nn.Module):
    """Residual branches one after the other: attention first, then the MLP."""

    def __init__(self, architecture: Architecture, shape: Shape) -> None:
        super().__init__()
        if shape.heads:
            self.attention = Attention(architecture, shape.heads)
        if shape.hidden:
            self.mlp = shape.mlp(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream behind the block."""
        for branch in self.children():
            x = x + branch(x)
        return x


class Network(nn.Module):
    """Stem, blocks, norm and head; classes are read from the mean over positions."""

    def __init__(self, architecture: Architecture, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.text = architecture.text
        self.stem = architecture.stem()
        self.position = nn.Parameter(torch.zeros(architecture.tokens, architecture.width))
        self.blocks = nn.ModuleList(Block(architecture, shape) for shape in shapes)
        self.norm = nn.LayerNorm(architecture.width)
        self.head = Linear(architecture.width, architecture.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits: (samples, classes), or (samples, tokens, characters) for text."""
        x = self.stem(x) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x if self.text else x.mean(dim=1))


def skeleton(architecture: Architecture, shapes: Sequence[Shape]) -> Network:
    """Return the network without memory for its parameters: they are handed to it at each call."""
    with torch.device("meta"):
        return Network(architecture, shapes)


def plain(network: Network) -> Network:
    """Return the network with torch's own linear maps, whose activations fxgrow sees right behind them."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear
    return network
