"""`undo`: take growth back."""

from collections.abc import Iterable

import torch.fx as fx
from torch.optim import Optimizer

from fxgrow.errors import PassError
from fxgrow.optimizers.succession import drop_parameters
from fxgrow.passes.undo import INSERTIONS, Undo, insertions
from fxgrow.record.digest import digest
from fxgrow.record.record import Record, record_of, update_record

_FIX = f"name the events to undo: those of {', '.join(INSERTIONS)}"


def undo(
    grown: fx.GraphModule, events: Iterable[int] | None = None, *, optimizer: Optimizer | None = None
) -> fx.GraphModule:
    """Return a copy of `grown` without what growth events inserted; without `events`, without any.

    The parameters of the base are shared and stay as they are. When everything is undone, the graph is the base's, bit
    for bit, and the edit log is empty; when the last events are undone, the log ends before them; when others are, the
    undoing is an edit itself, so that files can be replayed.

    Args:
        grown: A grown model.
        events: Indices into the growth history (``record_of(grown).history``). Only insertions can be undone:
            pseudo-layers, residual edges and blocks, not `widen`.
        optimizer: The optimizer that trains `grown`: the parameters that go are dropped from it, with their state.

    Raises:
        PassError: If an event does not exist or cannot be undone, or if others grew inside what it inserted.

    Example:
        >>> import torch, fxgrow
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> grown = fxgrow.insert_block(traced, after="0")
        >>> sorted(dict(undo(grown).named_parameters())) == sorted(dict(traced.named_parameters()))
        True
    """
    record = record_of(grown)
    if events is None:
        _refuse_lasting(record)
    edits = None if events is None else _edits_of(grown, record, tuple(events))
    made = Undo(edits)(grown)
    if not made.modified:
        return made.graph_module
    undone = set(edits) if edits is not None else {index for found in insertions(grown) for index in found.edits}
    _shorten_log(made.graph_module, record, undone)
    if optimizer is not None:
        left = {id(parameter) for parameter in made.graph_module.parameters()}
        drop_parameters(optimizer, [parameter for parameter in grown.parameters() if id(parameter) not in left])
    return made.graph_module


def _edits_of(grown: fx.GraphModule, record: Record, events: tuple[int, ...]) -> tuple[int, ...]:
    """Return the edits of growth events that inserted something that is still there."""
    edits: set[int] = set()
    ends = [*(event.first_edit for event in record.history[1:]), len(record.edits)]
    for index in events:
        if not 0 <= index < len(record.history):
            fix = f"name events from 0 to {len(record.history) - 1}" if record.history else "grow it first"
            raise PassError(f"the history has {len(record.history)} events", where=f"growth event {index}", fix=fix)
        event = record.history[index]
        paths = {growth.pseudo_layer for growth in event.sites}
        found = {edit for item in insertions(grown) if item.path in paths for edit in item.edits}
        own = {edit for edit in found if event.first_edit <= edit < ends[index]}
        if not own:
            kinds = ", ".join(sorted({growth.operator for growth in event.sites}))
            raise PassError(f"{kinds} cannot be undone", where=f"growth event {index}", fix=_FIX)
        edits |= own
    return tuple(sorted(edits))


def _refuse_lasting(record: Record) -> None:
    """Refuse to undo everything where some growth replaced what was there."""
    for index, event in enumerate(record.history):
        for growth in event.sites:
            if not growth.pseudo_layer:
                raise PassError(f"{growth.operator} cannot be undone", where=f"growth event {index}", fix=_FIX)


def _shorten_log(result: fx.GraphModule, record: Record, undone: set[int]) -> None:
    """Forget edits that were undone, where the graph is the one that the edits before them made."""
    first = min(undone)
    if digest(result) == record.base_digest:
        update_record(result, edits=(), base_digest="")
    elif undone >= set(range(first, len(record.edits))):
        update_record(result, edits=record.edits[:first])
