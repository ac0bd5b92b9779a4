"""Deepen: a residual block becomes two steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.execution.shapes import complete_shapes
from fxgrow.graph.blocks import find_blocks, runs, steps_between
from fxgrow.graph.regions import Region, find_region
from fxgrow.passes.block_copies import BlockCopy, CopyBlocks, ends_of, next_path, parameters_within
from fxgrow.passes.insertion import Insertion
from fxgrow.primitives.modules import replace_parameter
from fxgrow.record.lineage import Lineage


@dataclass(frozen=True)
class Deepen(CopyBlocks):
    """Put a copy behind each of some residual blocks: two half-steps in place of one, or a step and a silent one.

    Rewrites:
        1. ``how="half"``: each residual branch of the block and of its copy is halved, so that ``x + f(x)`` becomes
           ``y = x + f(x)/2, y + f(y)/2`` (Chang et al., ICLR 2018, arXiv 1710.10348). What ends a branch is found on
           the graph: the last linear map, or the norm or the scale (LayerScale) behind it.
        2. ``how="zero"``: the ends of the copy's branches are zero, so that the copy is the identity. There is no gate:
           they have a gradient in the first step.
        The copy takes the next free number beside the block (``blocks.12`` beside ``blocks.3``). Pseudo-layers inside
        the block are copied with it.

    Leaves alone:
        What a block reads from the side (masks, position biases): the copy shares that. Refused are blocks that are no
        sum of their input and what they make of it, that share weights, or whose branches have no end. A block with a
        norm behind its sums, as BERT's, is refused with ``how="zero"``: the copy would normalise once more.

    Preserves:
        Every shape. The function with ``how="zero"``; *not* with ``how="half"``: it becomes another one, which is close
        where branches are small (`fxgrow.verify` says how far), and learns faster. The halved parameters are new ones
        under the old names, and an optimizer begins both halves with fresh moments.

    Args:
        blocks: Module paths of the blocks.
        how: ``"half"`` or ``"zero"``.
    """

    blocks: tuple[str, ...]
    how: Literal["half", "zero"] = "half"

    name: ClassVar[str] = "deepen"

    @property
    def preserves_function(self) -> bool:  # type: ignore[override]
        """Whether the copies are silent."""
        return self.how == "zero"

    @property
    def keeps_parameters(self) -> bool:  # type: ignore[override]
        """Whether the blocks stay as they are."""
        return self.how == "zero"

    @property
    def paths(self) -> tuple[str, ...]:
        """Module paths of the blocks."""
        return self.blocks

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Copy the blocks, and scale the ends of their branches.

        Raises:
            PassError: If there is no such block, or it cannot become two steps.
        """
        for path in self.blocks:
            find_region(graph_module, path)  # all of them are there before the first copy
        for path in self.blocks:
            region = find_region(graph_module, path)
            ends = halves_of(graph_module, region) if self.how == "half" else zeros_of(graph_module, region)
            copied = BlockCopy(graph_module, region, next_path(graph_module, path))
            copied.connect(gated=False)
            copied.scale(ends, 0.5 if self.how == "half" else 0.0)
            if self.how == "half":
                _halve(graph_module, ends)
            complete_shapes(graph_module)  # which the next block's region is found by

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Let copies join the groups of their originals, and both halves begin anew."""
        found = dict(super().lineages(before, after))
        if self.how == "half":
            names = {name for path in self.blocks for name in parameters_within(before, path)}
            found |= {name: Lineage((name,)) for name in names}
        return found

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...] | None:
        """Return the copies that are still there, where the blocks are what they were."""
        return super().inverse(graph_module, edit) if self.how == "zero" else None


def repeated_blocks(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Return the paths of all residual blocks that have others of their kind beside them.

    Raises:
        PassError: If there are none.
    """
    blocks = find_blocks(graph_module)
    named = {block.path: block.exit for run in runs(blocks) if len(run) > 1 for block in run}
    if not named:
        refused = next((block for block in blocks if block.refusal), None)
        what = "it has no residual blocks of one kind" if refused is None else str(refused.refusal)
        raise PassError(what, where=refused.path if refused else "the model", fix="name the blocks to deepen")
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    return tuple(sorted(named, key=lambda path: position[named[path]]))


def halves_of(graph_module: fx.GraphModule, region: Region) -> tuple[str, ...]:
    """Return the parameters of a block that halve all its residual branches where they are halved.

    Raises:
        PassError: If there are none.
    """
    return ends_of(graph_module, region, steps_between(graph_module, region), linear=True)


def zeros_of(graph_module: fx.GraphModule, region: Region) -> tuple[str, ...]:
    """Return the parameters of a block that make it the identity where they are zero.

    Raises:
        PassError: If there are none.
    """
    steps = steps_between(graph_module, region)
    if not all(step.identity_at_zero for step in steps):
        fix = "use half-steps, or insert_block, which silences a copy by a gate"
        raise PassError("a silent copy of it would normalise once more, behind its sums", where=region.path, fix=fix)
    return ends_of(graph_module, region, steps, linear=False)


def _halve(graph_module: fx.GraphModule, names: tuple[str, ...]) -> None:
    """Put half of each parameter in its place; the graph that went in keeps the whole."""
    with torch.no_grad():
        for name in dict.fromkeys(names):
            replace_parameter(graph_module, name, graph_module.get_parameter(name) / 2)
