"""What is kept of a model whose blocks woke: its graph, with the history of how they did."""

from collections.abc import Sequence
from itertools import pairwise

import torch.fx as fx
from torch import Tensor

from fxgrow.execution.structures import mapped
from fxgrow.primitives.copying import deep_copy
from fxgrow.progressive.model import Progressive
from fxgrow.progressive.parts import Part
from fxgrow.progressive.waking import sources
from fxgrow.record.record import WAKING, Growth, GrowthEvent, Origin, update_record
from fxgrow.tracing import trace


def with_history(growing: Progressive, *, epochs: Sequence[float] = (), origin: Origin | None = None) -> fx.GraphModule:
    """Return a copy of the whole model, traced, whose history says which blocks woke when.

    Save it for `fxgrow inspect` and `fxgrow report`; what is idle at the moment is part of it.

    Args:
        growing: The model.
        epochs: When each advance was made, in epochs.
        origin: What built the model, so that a file of it can be loaded without it.

    Example:
        >>> fxgrow.save(with_history(growing, epochs=(10, 20)), "runs/mine/model.pt")  # doctest: +SKIP
    """
    inputs = mapped(growing._example_inputs, lambda value: value.cpu() if isinstance(value, Tensor) else value)
    traced = trace(deep_copy(growing.model).cpu(), inputs, origin=origin)
    update_record(traced, history=_history(growing, epochs))
    return traced


def _history(growing: Progressive, epochs: Sequence[float]) -> tuple[GrowthEvent, ...]:
    sizes = [stage.parameters for stage in growing.costs().stages[: growing.stage + 1]]
    stages = pairwise(zip(sizes, growing._running_parts, strict=False))
    contexts = [{"epoch": epoch} for epoch in epochs] + [{}] * growing.stage
    return tuple(
        GrowthEvent(before, after, _growths(growing, asleep, awake), first_edit=0, context=context)
        for ((before, asleep), (after, awake)), context in zip(stages, contexts, strict=False)
    )


def _growths(growing: Progressive, before: frozenset[int], after: frozenset[int]) -> tuple[Growth, ...]:
    parts = growing._parts.parts
    return tuple(
        Growth(WAKING, parts[source].path, _size(growing, parts[woken]), path=parts[woken].path)
        for source, group in sources(growing._parts, before, after).items()
        for woken in group
    )


def _size(growing: Progressive, part: Part) -> int:
    """Return how many parameters a block has, whatever part of its width runs."""
    parameters = dict(growing.model.named_parameters(remove_duplicate=False))
    return sum(parameters[name].numel() for name in part.tensors if name in parameters)
