"""Insert a block: put a copy of a repeated block behind it, silenced so that it is the identity."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.execution.shapes import complete_shapes
from fxgrow.graph.regions import Region, find_region
from fxgrow.passes.block_copies import BlockCopy, CopyBlocks, next_path
from fxgrow.passes.deepen import zeros_of


@dataclass(frozen=True)
class InsertBlock(CopyBlocks):
    """Put a copy of the block at `after` behind it, its parameters copied, its residual branches silenced.

    Rewrites:
        1. A block that adds residual branches to its input, ``x + f(x)``: in the copy the last linear map of each
           branch, or the norm or the scale behind it, is zero, as by `deepen` with ``how="zero"``.
        2. Any other block that keeps the shape: the copy's output goes through a gate that is zero, ``x + g * f(x)``,
           with one parameter for each channel.
        The copy takes the next free number beside the block (``blocks.12`` beside ``blocks.3``). Pseudo-layers inside
        the block are copied with it.

    Leaves alone:
        The block itself, and what it reads from the side (masks, position biases): the copy shares that. Refused are
        blocks with several inputs or outputs, that change the shape, or that call modules of others.

    Preserves:
        Every shape, and the function: the copy is exactly the identity at insertion. In train mode a copy with active
        dropout or stochastic depth draws random numbers of its own, so that later layers see others.

    Args:
        after: Module path of the block, or several: each gets a copy behind it, in this order.
    """

    after: str | tuple[str, ...]

    name: ClassVar[str] = "insert-block"

    @property
    def paths(self) -> tuple[str, ...]:
        """Module paths of the blocks."""
        return (self.after,) if isinstance(self.after, str) else self.after

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Copy the blocks' modules and nodes, and silence the copies.

        Raises:
            PassError: If there is no such block, or it cannot be copied.
        """
        for path in self.paths:
            find_region(graph_module, path)  # all of them are there before the first copy
        for path in self.paths:
            _insert(graph_module, find_region(graph_module, path))
            complete_shapes(graph_module)  # which the next block's region is found by


def _insert(graph_module: fx.GraphModule, region: Region) -> None:
    """Put a silenced copy of a block behind it."""
    copied = BlockCopy(graph_module, region, next_path(graph_module, region.path))
    try:
        zeros = zeros_of(graph_module, region)
    except PassError:
        copied.connect(gated=True)
    else:
        copied.connect(gated=False)
        copied.scale(zeros, 0.0)
