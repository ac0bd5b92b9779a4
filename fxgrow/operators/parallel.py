"""Operators that read the site's own input: they make the layer richer, and add depth where they nest."""

import torch
from torch import Tensor, nn

from fxgrow.operators.base import Attachment, PseudoLayer, as_index, random_directions, set_rows
from fxgrow.primitives.activations import EvenGELU, ResidualGELU
from fxgrow.primitives.linear_map import LinearMap

#: Length of the vectors that `signed` and `gated` start from, relative to the mean row of the site's weight.
RADIUS = 0.1

#: Mean row norm below which a site's weight counts as zero.
LEAST_LENGTH = 1e-3


class BesideSite(PseudoLayer):
    """A pseudo-layer whose linear maps are of the site's own kind and read the site's input."""

    reads = "input"
    channels: Tensor

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.gathered = attachment.map.groups > 1
        if self.gathered:
            channels = attachment.map.input_channels_of(attachment.rows)
            self.register_buffer("channels", as_index(channels, attachment.weight))
            self.channel_dim = attachment.map.channel_dim

    def read(self, x: Tensor) -> Tensor:
        """Return the channels that the grown rows read: all of them, but for a grouped convolution."""
        return x.index_select(self.channel_dim, self.channels) if self.gathered else x

    def build(self, attachment: Attachment, rows: Tensor | float, bias: Tensor | float = 0.0) -> nn.Module:
        """Build a map of the site's kind for the grown rows, with these weights."""
        neurons = len(attachment.rows)
        module = attachment.map.build(neurons, weight=attachment.weight, gathered=self.gathered)
        if isinstance(rows, Tensor):
            rows = LinearMap.of_module(module).to_weight(rows)
        set_rows(module, rows, bias)
        return module


class Branch(BesideSite):
    """``phi(A x)`` with ``A = 0`` and ``phi(u) = u + GELU(u)``: d + 1 parameters for each neuron.

    The same functions as `Paper` at half the parameters: that operator depends on A+ + A- only.
    """

    name = "branch"

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.branch = self.build(attachment, 0.0)
        self.act = ResidualGELU()

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """One row and one bias for each neuron."""
        return rows * (site.features + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(A x)."""
        return self.act(self.branch(self.read(x)))


class Paper(BesideSite):
    """``GELU(u) + u`` with ``u = A+ x + A- x`` and ``A+- = +-0.2 W_K``: the published operator, for fidelity.

    Source: arXiv 2402.12418. 2 (d + 1) parameters for each neuron; the two halves cancel exactly at insertion.
    """

    name = "paper"

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        index = as_index(attachment.rows, attachment.weight)
        rows = 0.2 * attachment.weight.detach()[index]
        bias = 0.0 if attachment.bias is None else 0.2 * attachment.bias.detach()[index]
        self.plus = self.build(attachment, rows, bias)
        self.minus = self.build(attachment, -rows, -bias)
        self.act = ResidualGELU()

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """Two rows and two biases for each neuron."""
        return 2 * rows * (site.features + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(A+ x + A- x)."""
        x = self.read(x)
        return self.act(self.plus(x) + self.minus(x))


class Signed(BesideSite):
    """``phi(U+ x) - phi(U- x)`` with ``U+ = U- = r v``: uses the eigenvector, and breaks symmetry at the first step.

    2 (d + 1) parameters for each neuron.
    """

    name = "signed"
    follows_eigenvectors = True

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.plus = self.build(attachment, starting_rows(attachment))
        self.minus = self.build(attachment, starting_rows_like(self.plus))
        self.act = ResidualGELU()

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """Two rows and two biases for each neuron."""
        return 2 * rows * (site.features + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(U+ x) - phi(U- x)."""
        x = self.read(x)
        return self.act(self.plus(x)) - self.act(self.minus(x))


class Gated(BesideSite):
    """``b * phi_e(a x)`` with ``b = 0``, ``a = r v`` and the even ``phi_e(u) = GELU(u) + GELU(-u)``.

    d + 2 parameters for each neuron. The sign of b adapts, so either sign of the eigenvalue can be used.
    """

    name = "gated"
    follows_eigenvectors = True

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.branch = self.build(attachment, starting_rows(attachment))
        self.act = EvenGELU()
        spatial = (1,) * attachment.map.spatial
        self.gate = nn.Parameter(torch.zeros(len(attachment.rows), *spatial).to(attachment.weight))

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """One row, one bias and one gate for each neuron."""
        return rows * (site.features + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return b * phi_e(a x)."""
        return self.gate * self.act(self.branch(self.read(x)))


def starting_rows(attachment: Attachment) -> Tensor:
    """Return r v: the scores' eigenvectors, or random ones, `RADIUS` times as long as the site's mean row."""
    directions = attachment.directions
    if directions is None:
        directions = random_directions(attachment, len(attachment.rows), attachment.map.features)
    length = attachment.weight.detach().norm(dim=1).mean()
    # A weight that is zero or nearly so (the second matrix of a pseudo-layer that has hardly trained) has no scale to
    # offer, and so small a row would have no gradient in single precision.
    length = length if length > LEAST_LENGTH else torch.ones_like(length)
    return RADIUS * length * directions.to(attachment.weight)


def starting_rows_like(module: nn.Module) -> Tensor:
    """Return a copy of the rows of `module`."""
    return LinearMap.of_module(module).to_rows(module.get_parameter("weight").detach().clone())
