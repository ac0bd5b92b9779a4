"""From one place of an edit log to another: what lets a model follow a state dict, and an average follow its model."""

from collections.abc import Sequence

import torch
import torch.fx as fx

from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.passes.pipeline import parse
from fxgrow.passes.undo import Undo
from fxgrow.record.record import record_of


def replay(graph_module: fx.GraphModule, edits: Sequence[str], optimizer: Optimizers | None = None) -> fx.GraphModule:
    """Return a copy of a graph that has another edit log: what goes beyond the common part is undone, the rest made.

    Parameters that stay are shared; new ones have the values of a fresh pass, until somebody loads others.

    Args:
        graph_module: The graph, edited or not. It stays as it was.
        edits: The log that the copy shall have.
        optimizer: The optimizer that trains the graph, or several: they go on with the copy.

    Raises:
        FxgrowError: If an edit cannot be undone or made; nothing has changed then.
    """
    known, current = record_of(graph_module).edits, graph_module
    common = next((place for place, pair in enumerate(zip(known, edits, strict=False)) if pair[0] != pair[1]), None)
    kept = min(len(known), len(edits)) if common is None else common
    with unchanged_on_failure(optimizer):
        if kept < len(known):
            current = Undo(tuple(range(kept, len(known))))(current, optimizer).graph_module
        for edit in edits[kept:]:
            current = parse(edit)(current, optimizer).graph_module
    return current


def follow(shadow: fx.GraphModule, leader: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of `shadow`, an average of the weights of `leader`, with the edits that `leader` has by now.

    What both had stays the average. What is new begins with the leader's values, of which it is the average so far.
    """
    followed = replay(shadow, record_of(leader).edits)
    known, values = set(dict(_tensors(shadow))), dict(_tensors(leader))
    with torch.no_grad():
        for name, tensor in _tensors(followed):
            if name not in known:
                tensor.copy_(values[name])
    followed.meta = {**followed.meta, **leader.meta}
    return followed


def _tensors(graph_module: fx.GraphModule) -> list[tuple[str, torch.Tensor]]:
    return [*graph_module.named_parameters(), *graph_module.named_buffers()]
