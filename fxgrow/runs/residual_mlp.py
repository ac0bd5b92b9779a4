"""The network of the recipe `half_steps`: residual MLP blocks between a stem and a head."""

from torch import Tensor, nn


class Block(nn.Module):
    """One residual block, ``x + out(gelu(fc1(norm(x))))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(samples, width)`` to the same shape."""
        return x + self.out(self.act(self.fc1(self.norm(x))))


class ResidualMLP(nn.Module):
    """A classifier of vectors, or of images as vectors.

    Args:
        features: Numbers in an input.
        classes: Numbers in an output.
        depth: Blocks.
        width: Width of the residual stream.
        hidden: Hidden units of a block.
    """

    def __init__(
        self, features: int = 40, classes: int = 10, depth: int = 8, width: int = 32, hidden: int = 64
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(Block(width, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(samples, ...)`` to logits ``(samples, classes)``."""
        return self.head(self.norm(self.blocks(self.stem(x.flatten(1)))))
