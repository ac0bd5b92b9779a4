"""Undo: take insertions out of the graph again, as if they had never been made."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.passes.base import Pass
from fxgrow.primitives.modules import resolves
from fxgrow.record.annotations import annotation
from fxgrow.record.record import record_of, update_record

#: edits that insert something between values that stay as they are
INSERTIONS = ("insert-pseudo-layers", "add-residual-edge", "insert-block")
#: edits that only change what others inserted, or leave nothing to undo
REVERSIBLE = (*INSERTIONS, "fold-pairs", "merge-branches", "functionalize-inplace", "undo")


@dataclass(frozen=True)
class Undo(Pass):
    """Take out the pseudo-layers, residual edges and blocks that edits inserted, whatever they have learned since.

    Rewrites:
        Who reads the end of an insertion reads what it was put behind; its nodes, parameters and buffers go, and its
        lines in the growth history.

    Leaves alone:
        Every parameter that the base has. Undone can be `insert-pseudo-layers`, `add-residual-edge` and `insert-block`,
        folded or merged since or not. Not undone can be edits that changed what was there (`widen`, `slim`,
        `eliminate-dead-code`): with such an edit behind an insertion, name the edits to undo. `functionalize-inplace`
        stays.
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
                what = f"its value {node.name} is read by {reader.name}, which is no part of it"
                raise PassError(what, where=_where(graph_module, node), fix="undo what reads it too")
            graph_module.graph.erase_node(node)
        for path in paths:
            _detach(graph_module, path)
        _forget(graph_module, paths)

    def _choose(self, graph_module: fx.GraphModule) -> list["Insertion"]:
        log, found = record_of(graph_module).edits, list(insertions(graph_module))
        if self.edits is None:
            wanted = {index for insertion in found for index in insertion.edits}
            for index, edit in enumerate(log):
                if wanted and index > min(wanted) and edit.partition("{")[0] not in REVERSIBLE:
                    fix = "name the edits to undo, as in undo{edits=[0]}"
                    raise PassError(
                        "it changed what was there, and cannot be undone", where=_spell(index, edit), fix=fix
                    )
        else:
            wanted = set(self.edits)
            for index in sorted(wanted):
                if not 0 <= index < len(log) or log[index].partition("{")[0] not in INSERTIONS:
                    what = "it inserted nothing" if 0 <= index < len(log) else f"the log has {len(log)} edits"
                    where = _spell(index, log[index] if 0 <= index < len(log) else "")
                    raise PassError(what, where=where, fix=f"name edits of {', '.join(INSERTIONS)}")
        chosen = [insertion for insertion in reversed(found) if insertion.edits & wanted]
        for insertion in chosen:
            if not insertion.edits <= wanted:
                together = ", ".join(str(index) for index in sorted(insertion.edits))
                raise PassError(f"edits {together} were merged", where=insertion.path, fix="undo them together")
            if insertion.moved:
                raise PassError("other nodes were moved for it", where=insertion.path, fix="trace the model again")
        return chosen

    def _refuse_dependents(self, graph_module: fx.GraphModule, doomed: list[fx.Node], paths: set[str]) -> None:
        going = set(doomed)
        for insertion in insertions(graph_module):
            inside = any(insertion.site == path or insertion.site.startswith(f"{path}.") for path in paths)
            if inside and insertion.exit not in going:
                where = _where(graph_module, insertion.exit)
                fix = f"undo edit {max(insertion.edits)} too"
                raise PassError(f"it grew at {insertion.site}, which would go", where=where, fix=fix)


@dataclass(frozen=True)
class Insertion:
    """One thing that an edit inserted, at one call."""

    path: str  #: module path of the pseudo-layer, the gate or the block
    site: str  #: module path of what it was put behind
    edits: frozenset[int]
    exit: fx.Node  #: whose value took the place of `bypass`
    bypass: fx.Node
    moved: bool


def insertions(graph_module: fx.GraphModule) -> Iterator[Insertion]:
    """Yield what was inserted, in the order of the graph; what was copied with a block belongs to the block."""
    entries: dict[str, fx.Node] = {}
    for node in graph_module.graph.nodes:
        made = annotation(node).get("provenance", {})
        if "block" in made:
            if "entry" in made:
                entries.setdefault(made["block"], node.all_input_nodes[made["entry"]])
            if made.get("exit"):
                path = made["block"]
                yield Insertion(path, "", frozenset([made["edit"]]), node, entries[path], moved=False)
        elif made.get("role") == "residual-edge":
            edits = frozenset([made["edit"], *made.get("merged", [])])
            bypass = node.args[0]
            assert isinstance(bypass, fx.Node)
            yield Insertion(made["pseudo_layer"], made["site"], edits, node, bypass, made.get("moved", False))


def _belongs(node: fx.Node, path: str) -> bool:
    made = annotation(node).get("provenance", {})
    owner = made.get("block") or made.get("pseudo_layer", "")
    return owner == path


def _detach(graph_module: fx.GraphModule, path: str) -> None:
    for gone in (path, f"{path}_gate"):
        if resolves(graph_module, gone):
            parent, _, name = gone.rpartition(".")
            delattr(graph_module.get_submodule(parent), name)


def _forget(graph_module: fx.GraphModule, paths: set[str]) -> None:
    """Take the insertions out of the growth history."""
    record = record_of(graph_module)
    history = []
    for event in record.history:
        left = tuple(growth for growth in event.sites if growth.pseudo_layer not in paths)
        if left:
            history.append(replace(event, sites=left))
    names = tuple(name for name in record.new_parameters if resolves(graph_module, name))
    update_record(graph_module, history=tuple(history), new_parameters=names)


def _where(graph_module: fx.GraphModule, node: fx.Node) -> str:
    index = annotation(node).get("provenance", {}).get("edit", -1)
    log = record_of(graph_module).edits
    return _spell(index, log[index] if 0 <= index < len(log) else "")


def _spell(index: int, edit: str) -> str:
    return f"edit {index} ({edit if len(edit) <= 80 else edit[:60] + '…'})" if edit else f"edit {index}"
