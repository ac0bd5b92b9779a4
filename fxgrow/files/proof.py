"""Proof that a file gives its model back, before it has its name."""

import torch
import torch.fx as fx

from fxgrow.errors import FileError, FxgrowError, PassError, VerificationError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.observation import RunError, observe
from fxgrow.files.differences import difference
from fxgrow.files.origins import GIVE_BASE
from fxgrow.files.reading import Contents
from fxgrow.files.rebuilding import rebuild
from fxgrow.files.table import Table
from fxgrow.passes import parse
from fxgrow.passes.undo import Undo
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.digest import digest
from fxgrow.record.record import Origin, update_record
from fxgrow.verification import verify

_UNDO = "take back what was changed by hand, or change it before the first edit; check=False writes it all the same"


def prove(graph_module: fx.GraphModule, contents: Contents, where: str) -> None:
    """Check that a file which was just read back gives the model that it was written from.

    A base with an origin is built from it, as `load` does. Without one the base is what is left when all edits are
    undone; where they cannot be, or there are none, that the file reads back has to do. The model that comes out is
    compared with this one in eval mode on two samples.

    Args:
        graph_module: The model that was written.
        contents: What was read back.
        where: The file, for errors.

    Raises:
        FileError: If another model comes out, or none.
    """
    origin = contents.table.record.origin
    if origin is not None:
        rebuilt: fx.GraphModule | None = _from_origin(contents, origin, where)
    else:
        rebuilt = _replayed(graph_module, contents.table, where)
    if rebuilt is None:
        return
    rebuilt.to(next((tensor.device for tensor in graph_module.parameters()), torch.device("cpu")))
    try:
        observe(graph_module, Inputs.drawn(graph_module, 0), mode="eval", gradients=False, seed=0)
    except (RunError, FxgrowError):
        return  # it takes other values than random ones
    try:
        verify(graph_module, rebuilt, modes=("eval",), batch_sizes=(2,), gradients=False)
    except VerificationError as error:
        what = f"load would give a model that computes something else: {error.where}: {error.what}"
        raise FileError(what, where=where, fix=_UNDO) from error


def _from_origin(contents: Contents, origin: Origin, where: str) -> fx.GraphModule:
    try:
        return rebuild(contents, base=None, where=where)
    except FileError as error:
        what = f"load could not build it from {origin.spelling}: {error.what}"
        raise FileError(what, where=where, fix=f"write it with check=False, and load it with {GIVE_BASE}") from error


def _replayed(graph_module: fx.GraphModule, table: Table, where: str) -> fx.GraphModule | None:
    """Return the graph that the edit log makes from its base, with the values of `graph_module`.

    None where there is no edit, or one that cannot be undone.
    """
    edits = tuple(range(len(table.record.edits)))
    if not edits:
        return None
    try:
        replayed = Undo(edits)(graph_module).graph_module  # all by name: an edit that lasts is refused
    except PassError:
        return None
    update_record(replayed, edits=(), history=(), base_digest="")
    try:
        for edit in table.record.edits:
            replayed = parse(edit)(replayed).graph_module
    except FxgrowError as error:
        raise FileError(f"its edits cannot be replayed on its base ({error})", where=where, fix=_UNDO) from error
    if digest(replayed) != table.digest:
        seen = difference(replayed, table)
        differs = f": {seen}" if seen else ""
        what = f"what its edits inserted was changed by hand{differs}"
        raise FileError(what, where=where, fix=_UNDO)
    with torch.no_grad():
        for name, own in [*replayed.named_parameters(), *replayed.named_buffers()]:
            value = fetch_attribute(graph_module, name)
            if own is not value:
                own.copy_(value)
    return replayed
