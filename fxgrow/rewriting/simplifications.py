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
        >>> import torch, fxgrow
        >>> from fxgrow.passes import parse
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> grown = parse('insert-pseudo-layers{rows={"0":[1]} operator=paper}')(traced).graph_module
        >>> [name for name, _ in fold_pairs(grown).named_parameters() if "pseudo" in name]
        ['0_pseudo_0.branch.weight', '0_pseudo_0.branch.bias']
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
        >>> import torch, fxgrow
        >>> from fxgrow.passes import parse
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> edit = parse('insert-pseudo-layers{rows={"0":[1]} operator=branch}')
        >>> grown = edit(edit(traced).graph_module).graph_module
        >>> merge_branches(grown).get_parameter("0_pseudo_0.branch.weight").shape
        torch.Size([2, 4])
    """
    return rewrite(grown, MergeBranches(), optimizer)
