"""Rewrites that insert: residual edges and whole blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.fx as fx
from torch.optim import Optimizer

from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.rewriting.application import grow_by


def add_residual_edge(
    traced: fx.GraphModule,
    *,
    source: str,
    target: str,
    optimizer: Optimizer | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` in which `target` becomes ``target + gate * source``, with a gate that is zero.

    The result shares the parameters of `traced` and computes the same function; the gate is its new parameter.

    Args:
        traced: A traced model.
        source: Module path of the value that is added, or the name of an input of the model.
        target: Module path of the value that it is added to, of the same shape, and not an ancestor of the source.
        optimizer: The optimizer that trains `traced`; the gate joins it.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If an end does not exist, or the edge may not go there.
        PlanError: If the optimizer cannot take the gate.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
        >>> traced = fxgrow.trace(model, torch.randn(2, 4))
        >>> list(fxgrow.new_parameters(add_residual_edge(traced, source="0", target="2")))
        ['2_edge_0.gate']
    """
    return grow_by(traced, (AddResidualEdge(source, target),), optimizer, context)


def insert_block(
    traced: fx.GraphModule,
    *,
    after: str | Sequence[str],
    optimizer: Optimizer | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` in which copies of whole blocks, silenced to the identity, stand behind them.

    Depth is added uniformly, as in LLaMA Pro (Wu et al., ACL 2024): the baseline that growth has to beat. The result
    shares the parameters of `traced` and computes the same function.

    Args:
        traced: A traced model.
        after: Module path of a block (``"blocks.3"``), or several: each gets a copy behind it.
        optimizer: The optimizer that trains `traced`; copies join the groups of their originals, without state.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If there is no such block, or it cannot be copied.
        PlanError: If the optimizer cannot take the new parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
        >>> traced = fxgrow.trace(model, torch.randn(2, 4))
        >>> list(fxgrow.new_parameters(insert_block(traced, after="0")))
        ['2_gate', '2.weight', '2.bias']
    """
    paths = (after,) if isinstance(after, str) else tuple(after)
    return grow_by(traced, tuple(InsertBlock(path) for path in paths), optimizer, context)
