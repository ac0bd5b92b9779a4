"""The networks of the study: residual blocks between a stem and a head, described by data."""

from collections.abc import Sequence
from dataclasses import dataclass

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


class Linear(nn.Linear):
    """A linear map that sees all positions as one matrix: under ``vmap`` that is one product for each seed."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of each position."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


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
        stem = nn.Embedding if architecture.text else Linear
        self.stem = stem(architecture.features, architecture.width)
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
        if isinstance(module, Linear):
            module.__class__ = nn.Linear
    return network
