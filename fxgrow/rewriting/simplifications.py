"""Rewrites that make a grown model cheaper and leave its function alone."""

import torch.fx as fx
from torch.optim import Optimizer

from fxgrow.passes.fold_pairs import FoldPairs
from fxgrow.passes.merge_branches import MergeBranches
from fxgrow.rewriting.application import rewrite


def fold_pairs(grown: fx.GraphModule, *, optimizer: Optimizer | None = None) -> fx.GraphModule:
    """Return a copy of `grown` in which each published +- pair (operator `paper`) is one map (operator `branch`).

    Half the parameters, the same function. The moments of an optimizer go along; its learning rate for the folded
    parameters has to be doubled for training to go on as it would have (and the weight decay of AdamW halved).

    Args:
        grown: A grown model.
        optimizer: The optimizer that trains `grown`.

    Raises:
        PlanError: If the optimizer cannot exchange parameters.

    Example:
        >>> folded = fold_pairs(grown, optimizer=optimizer)  # doctest: +SKIP
    """
    return rewrite(grown, FoldPairs(), optimizer)


def merge_branches(grown: fx.GraphModule, *, optimizer: Optimizer | None = None) -> fx.GraphModule:
    """Return a copy of `grown` in which the pseudo-layers of one kind beside each other at a site are one.

    One matrix product in place of one for each growth event, the same function. The moments of an optimizer go along.

    Args:
        grown: A grown model.
        optimizer: The optimizer that trains `grown`.

    Raises:
        PlanError: If the optimizer cannot exchange parameters.

    Example:
        >>> merged = merge_branches(grown, optimizer=optimizer)  # doctest: +SKIP
    """
    return rewrite(grown, MergeBranches(), optimizer)
