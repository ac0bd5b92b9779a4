"""Rewrites that change hidden widths."""

from collections.abc import Mapping
from typing import Any, Literal

import torch.fx as fx
from torch.optim import Optimizer

from fxgrow.passes.slim import Slim
from fxgrow.passes.widen import Widen
from fxgrow.rewriting.application import grow_by, rewrite


def widen(
    traced: fx.GraphModule,
    site: str,
    *,
    by: int,
    how: Literal["pairs", "split"] = "pairs",
    heads: bool = False,
    seed: int = 0,
    optimizer: Optimizer | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` with more hidden units at a site, which computes the same function.

    This is the one growth that cannot share parameters: those that hold the units are new, under their old names, and
    take the places of the old ones in the optimizer, with their moments.

    Args:
        traced: A traced model.
        site: Module path of a site whose output rows are hidden units: fc1 of an MLP, or q, k, v or qkv of attention.
        by: How many units to add; for attention, dimensions in each head, or heads.
        how: ``"pairs"``: two new units cancel each other; ``"split"``: a new unit and an old one share the old one's
            work, and its moments (``exp_avg / 2``, ``exp_avg_sq / 4`` for what comes in).
        heads: Whether to add heads, and not dimensions to every head.
        seed: Seed of the random weights that break the symmetry.
        optimizer: The optimizer that trains `traced`.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If the width cannot change, with the reason, or `by` does not fit.
        PlanError: If the optimizer cannot exchange the parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 2))
        >>> wide = widen(fxgrow.trace(model, torch.randn(2, 4)), "0", by=2)
        >>> [tuple(parameter.shape) for parameter in wide.parameters()]
        [(8, 4), (8,), (2, 8), (2,)]
    """
    return grow_by(traced, (Widen(site, by, how, heads, seed),), optimizer, context)


def slim(
    traced: fx.GraphModule, ratio: float = 0.5, *, heads: bool = False, optimizer: Optimizer | None = None
) -> fx.GraphModule:
    """Return a narrower model: a share of its hidden units, the residual streams as wide as they are.

    The function is *not* kept: this is where a model starts that shall grow. DeiT-S with 100 classes and half its
    hidden widths has 11,071,204 parameters.

    Args:
        traced: A traced model.
        ratio: The share of units that stay.
        heads: Whether attention loses heads, and not dimensions of every head. The number of parameters is the same.
        optimizer: An optimizer of `traced`, if there is one already.

    Raises:
        PassError: If the ratio is not between 0 and 1, or no width can change.
        PlanError: If the optimizer cannot exchange the parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 2))
        >>> small = slim(fxgrow.trace(model, torch.randn(2, 4)), 0.5)
        >>> [tuple(parameter.shape) for parameter in small.parameters()]
        [(3, 4), (3,), (2, 3), (2,)]
    """
    return rewrite(traced, Slim(ratio, heads), optimizer)
