"""Undo: take insertions out of the graph again, as if they had never been made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion
from fxgrow.passes.pipeline import parse
from fxgrow.primitives.modules import resolves
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.digest import digest
from fxgrow.record.location import name_of
from fxgrow.record.provenance import Provenance, provenance_of
from fxgrow.record.record import record_of, update_record


@dataclass(frozen=True)
class Undo(Pass):
    """Take out the pseudo-layers, residual edges and blocks that edits inserted, whatever they have learned since.

    Rewrites:
        Who reads the end of an insertion reads what it was put behind; its nodes, parameters and buffers go, and its
        lines in the growth history.

    Leaves alone:
        Every parameter that the base has. Each pass says what is to be taken out for it (`Pass.inverse`): for
        `insert-pseudo-layers`, `add-residual-edge` and `insert-block` what they inserted, folded or merged since or
        not; for passes that change only what others inserted, and for normalisations, nothing. Edits that changed what
        was there (`widen`, `slim`) cannot be undone: with such an edit behind an insertion, name the edits to undo.
        Refused are an edit inside of whose insertion a later one grew, one of several that were merged, and an edge
        for which other nodes were moved.

    Preserves:
        Shapes. Not the function, once the insertions were trained. When all is undone, the graph is the base's, bit
        for bit: its digest is `Record.base_digest`.

    Args:
        edits: Indices into the edit log; without them, all insertions.
    """

    edits: tuple[int, ...] | None = None

    name: ClassVar[str] = "undo"
    preserves_function: ClassVar[bool] = False
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Take the insertions out, the last first.

        Raises:
            PassError: If an edit cannot be undone.
        """
        chosen = self._choose(graph_module)
        paths = {insertion.path for insertion in chosen}
        doomed = [node for node in graph_module.graph.nodes if any(_belongs(node, path) for path in paths)]
        self._refuse_dependents(graph_module, doomed, paths)
        for insertion in chosen:
            insertion.exit.replace_all_uses_with(insertion.bypass)
        for node in reversed(doomed):
            if node.users:
                reader = next(iter(node.users))
                what = f"its value {name_of(node)} is read by {name_of(reader)}, which is no part of it"
                raise PassError(what, where=_where(graph_module, node), fix="undo what reads it too")
            graph_module.graph.erase_node(node)
        for path in paths:
            _detach(graph_module, path)
        _forget(graph_module, paths)

    def _choose(self, graph_module: fx.GraphModule) -> list[Insertion]:
        """Return what goes, the last first."""
        inverses = _inverses(graph_module)
        _refuse_lasting(graph_module, inverses, self.edits)
        wanted = set(range(len(inverses)) if self.edits is None else self.edits)
        found = dict.fromkeys(item for index in sorted(wanted) for item in inverses[index] or ())
        for insertion in found:
            if not insertion.edits <= wanted:
                together = ", ".join(str(index) for index in sorted(insertion.edits))
                raise PassError(f"edits {together} were merged", where=insertion.path, fix="undo them together")
            if insertion.moved:
                raise PassError("other nodes were moved for it", where=insertion.path, fix="trace the model again")
        return sorted(found, key=lambda insertion: insertion.exit, reverse=True)

    def _refuse_dependents(self, graph_module: fx.GraphModule, doomed: list[fx.Node], paths: set[str]) -> None:
        going = set(doomed)
        for insertion in (item for inverse in _inverses(graph_module) for item in inverse or ()):
            inside = any(insertion.site == path or insertion.site.startswith(f"{path}.") for path in paths)
            if inside and insertion.exit not in going:
                where = _where(graph_module, insertion.exit)
                fix = f"undo edit {max(insertion.edits)} too"
                raise PassError(f"it grew at {insertion.site}, which would go", where=where, fix=fix)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return nothing: what was undone is not inserted again."""
        return ()

    def log(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[str, ...]:
        """Forget edits that were undone, where the graph is the one that the edits before them made."""
        record = record_of(before)
        undone = {index for insertion in self._choose(before) for index in insertion.edits}
        if digest(after) == record.base_digest:
            return ()
        first = min(undone)
        return record.edits[:first] if undone >= set(range(first, len(record.edits))) else super().log(before, after)


def edits_of_events(graph_module: nn.Module, events: Sequence[int]) -> tuple[int, ...]:
    """Return the edits of growth events that inserted something that is still there.

    Raises:
        PassError: If an event does not exist, or cannot be undone.
    """
    graph_module = unwrap(graph_module)
    record, inverses, edits = record_of(graph_module), _inverses(graph_module), set[int]()
    ends = [*(event.first_edit for event in record.history[1:]), len(record.edits)]
    for number in events:
        if not 0 <= number < len(record.history):
            fix = f"name events from 0 to {len(record.history) - 1}" if record.history else "grow it first"
            raise PassError(f"the history has {len(record.history)} events", where=f"growth event {number}", fix=fix)
        first = record.history[number].first_edit
        own = {index for index in range(first, ends[number]) if inverses[index]}
        if not own:
            kinds = ", ".join(sorted({growth.kind for growth in record.history[number].growths}))
            raise PassError(f"a grown {kinds} cannot be undone", where=f"growth event {number}", fix=_FIX)
        edits |= own
    return tuple(sorted(edits))


_FIX = "name only what inserted something: pseudo-layers, residual edges, blocks"


def _inverses(graph_module: fx.GraphModule) -> list[tuple[Insertion, ...] | None]:
    """Ask the pass of each edit in the log what there is to take out; None where it cannot be undone."""
    log = record_of(graph_module).edits
    return [parse(edit).passes[0].inverse(graph_module, index) for index, edit in enumerate(log)]


def _refuse_lasting(
    graph_module: fx.GraphModule, inverses: Sequence[tuple[Insertion, ...] | None], edits: tuple[int, ...] | None
) -> None:
    """Refuse edits that cannot be undone: named ones, or else those that grew or lie behind an insertion."""
    record = record_of(graph_module)
    grown = {event.first_edit for event in record.history}
    first = next((index for index, inverse in enumerate(inverses) if inverse), len(inverses))
    named = (index for index in range(len(inverses)) if index in grown or index > first) if edits is None else edits
    for index in sorted(named):
        if not 0 <= index < len(inverses):
            fix = f"name edits from 0 to {len(inverses) - 1}" if inverses else "grow it first"
            raise PassError(f"the log has {len(inverses)} edits", where=f"edit {index}", fix=fix)
        if inverses[index] is None:
            where = _spell(index, record.edits[index])
            raise PassError("it changed what was there, and cannot be undone", where=where, fix=_FIX)


def _belongs(node: fx.Node, path: str) -> bool:
    made = provenance_of(node)
    return made is not None and made.owner == path


def _detach(graph_module: fx.GraphModule, path: str) -> None:
    for gone in (path, f"{path}_gate"):
        if resolves(graph_module, gone):
            parent, _, name = gone.rpartition(".")
            delattr(graph_module.get_submodule(parent), name)


def _forget(graph_module: fx.GraphModule, paths: set[str]) -> None:
    """Take the insertions out of the growth history."""
    history = []
    for event in record_of(graph_module).history:
        left = tuple(growth for growth in event.growths if growth.path not in paths)
        if left:
            history.append(replace(event, growths=left))
    update_record(graph_module, history=tuple(history))


def _where(graph_module: fx.GraphModule, node: fx.Node) -> str:
    made, log = provenance_of(node) or Provenance(), record_of(graph_module).edits
    return _spell(made.edit, log[made.edit] if 0 <= made.edit < len(log) else "")


def _spell(index: int, edit: str) -> str:
    return f"edit {index} ({edit if len(edit) <= 80 else edit[:60] + '…'})" if edit else f"edit {index}"
