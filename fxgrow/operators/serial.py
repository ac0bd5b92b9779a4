"""The operator that adds depth at once: it reads what the site made."""

import math

import torch
from torch import Tensor, nn

from fxgrow.operators.base import Attachment, PseudoLayer, set_rows
from fxgrow.primitives.linear_map import LinearMap, pointwise

#: Rows of a matrix that are drawn at once, in double precision: all of them would take twice the memory of the matrix.
_ROWS_AT_ONCE = 16


class Serial(PseudoLayer):
    """``W2 GELU(W1 h + b1)`` on the site's own output h (behind its activation), with ``W2 = 0``.

    Depth in series rather than beside. One hidden unit for each grown row: ``W1`` is (rows, neurons), random with the
    variance that torch gives a Linear; ``W2`` is (rows, rows) and has no bias. In a convolution both mix channels at
    one pixel.
    """

    name = "serial"
    reads = "output"

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        neurons, rows = attachment.map.neurons, len(attachment.rows)
        spatial, weight = attachment.map.spatial, attachment.weight
        self.fc1 = pointwise(neurons, rows, spatial, weight=weight)
        self.act = nn.GELU()
        self.fc2 = pointwise(rows, rows, spatial, weight=weight, bias=False)
        bound = 1 / math.sqrt(neurons)
        set_rows(self.fc1, 0.0)
        with torch.no_grad():
            for block in torch.split(self.fc1.get_parameter("weight"), _ROWS_AT_ONCE):
                drawn = torch.rand(block.shape, generator=attachment.generator, dtype=torch.float64)
                block.copy_(drawn.mul_(2).sub_(1).mul_(bound))
        set_rows(self.fc2, 0.0)

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """A hidden row and its bias for each grown row, and a square matrix over the grown rows."""
        return rows * (site.neurons + 1) + rows * rows

    def forward(self, x: Tensor) -> Tensor:
        """Return W2 GELU(W1 h + b1)."""
        return self.fc2(self.act(self.fc1(x)))
