"""Rebuild a model from its file: the base from its origin, the edit log replayed on it, and the weights."""

import os

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import FileError, FxgrowError
from fxgrow.execution.shapes import complete_shapes
from fxgrow.files.diagnosis import PickledFileError
from fxgrow.files.differences import difference
from fxgrow.files.origins import GIVE_BASE, build_base
from fxgrow.files.pickles import unpickle
from fxgrow.files.reading import Contents, read
from fxgrow.files.retracing import give_dtypes, trace_again
from fxgrow.files.table import Table
from fxgrow.passes import parse
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.modules import resolves
from fxgrow.record.annotations import KEY, annotate, annotation
from fxgrow.record.digest import digest


@checks_arguments(FileError, path="a path")
def load(path: str | os.PathLike[str], *, base: nn.Module | None = None, allow_pickle: bool = False) -> fx.GraphModule:
    """Rebuild the model that `fxgrow.save` wrote, on the CPU.

    The base is built from its recorded origin (timm's registry, without pretrained weights) or taken from `base`,
    traced as it was traced before, and the edit log is replayed on it. The digest of the result must be the file's,
    and the weights must fit exactly. Outputs are those of the saved model, bit for bit, on the same machine.

    Args:
        path: The file.
        base: The model that was traced, for a file that does not know its origin. It is copied and not changed.
        allow_pickle: Read a file that holds a pickled GraphModule or nn.Module. *Such a file can run any code when it
            is read*: allow it only if you trust whoever made it.

    Raises:
        FileError: If the file is missing, damaged or no model of fxgrow; if its base cannot be built, or `base` is
            another model; or if the weights do not fit.

    Example:
        >>> grown = fxgrow.load("model.pt")  # doctest: +SKIP
    """
    try:
        contents = read(path)
    except PickledFileError:
        if not allow_pickle:
            raise
        return unpickle(path)
    return rebuild(contents, base=base, where=str(path))


def rebuild(contents: Contents, *, base: nn.Module | None, where: str) -> fx.GraphModule:
    """Rebuild the model from the contents of a file; `where` names the file in errors.

    Raises:
        FileError: As for `load`.
    """
    if base is None:
        base = build_base(contents.table.record.origin, where)
    graph_module = _replay(trace_again(base, contents, where), contents, where)
    _check_rows(graph_module, contents.table, where)
    _load_weights(graph_module, contents, where)
    _restore(graph_module, contents.table)
    return graph_module


def _replay(traced: fx.GraphModule, contents: Contents, where: str) -> fx.GraphModule:
    """Replay the edit log on the base, unless that is the grown model already; the digest must be the file's."""
    table = contents.table
    expected = table.record.base_digest or table.digest
    before = digest(traced)
    if _fits(traced, contents):
        return traced
    grown, failure = traced, None
    try:
        for edit in table.record.edits:
            grown = parse(edit)(grown).graph_module
    except FxgrowError as error:
        failure = error
    if failure is None and _fits(grown, contents):
        return grown
    seen = difference(traced if failure else grown, contents.table)
    differs = f": {seen}" if seen else ""
    if before != expected:
        fix = f"give the model as it was when it was saved: {GIVE_BASE}"
        raise FileError(
            f"the base is another model than the one that was traced{differs}", where=where, fix=fix
        ) from failure
    if failure is None and seen:
        fix = f"make the same change to its base before it is traced, and give that: {GIVE_BASE}"
        raise FileError(f"it was changed by hand after it was traced{differs}", where=where, fix=fix)
    reason = f"cannot be replayed ({failure})" if failure else "gives another graph than the file's when replayed"
    fix = f"use the versions that wrote it ({_versions(table)})"
    raise FileError(f"its edit log {reason}", where=where, fix=fix) from failure


def _versions(table: Table) -> str:
    return ", ".join(f"{name} {version}" for name, version in table.written_by.items())


def _fits(graph_module: fx.GraphModule, contents: Contents) -> bool:
    """Give the tensors the dtypes that the file has, and say whether the graph is the file's."""
    give_dtypes(graph_module, contents.tensors)
    return digest(graph_module) == contents.table.digest


def _check_rows(graph_module: fx.GraphModule, table: Table, where: str) -> None:
    """Check that the table lists this graph: the digest that it states is not made from its rows."""
    called = [(node.op, str(node.target) if node.op == "call_module" else "") for node in graph_module.graph.nodes]
    listed = [(row.op, row.target if row.op == "call_module" else "") for row in table.nodes]
    unknown = [name for name in table.other_mode if not resolves(graph_module, name)]
    if called != listed or unknown:
        what = f"its table lists {unknown[0][:60]!r}, which is no module" if unknown else "its table lists other nodes"
        raise FileError(f"{what} of the graph that its edits make", where=where, fix="restore it from a copy")


def _load_weights(graph_module: fx.GraphModule, contents: Contents, where: str) -> None:
    try:
        graph_module.load_state_dict(dict(contents.state_dict), strict=True)
        for name, buffer in contents.buffers.items():
            _set_buffer(graph_module, name, buffer)
    except (RuntimeError, AttributeError) as error:
        what = f"its weights do not fit its graph ({' '.join(str(error).split())[:160]})"
        raise FileError(what, where=where, fix="give the model that was traced") from error


def _set_buffer(graph_module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Set a buffer that is not in the state dict; models replace those, whose shape may follow the last input."""
    path, _, buffer = name.rpartition(".")
    owner = graph_module.get_submodule(path)
    present = owner._buffers.get(buffer)
    if present is not None and present.shape == value.shape:
        present.copy_(value)
    elif buffer in owner._buffers:
        owner._buffers[buffer] = value.clone()
    else:
        raise AttributeError(f"{name} is no buffer of the graph")


def _restore(graph_module: fx.GraphModule, table: Table) -> None:
    """Restore what a state dict does not carry: shapes, annotations, the record, modes, and what is frozen."""
    complete_shapes(graph_module)
    for node, row in zip(graph_module.graph.nodes, table.nodes, strict=True):
        cleared = dict.fromkeys(annotation(node))
        annotate(node, **{**cleared, **row.annotation})
    graph_module.meta[KEY] = table.record
    graph_module.train(table.training)
    for name in table.other_mode:
        module = graph_module.get_submodule(name)
        module.training = not table.training
    for name, parameter in graph_module.named_parameters():
        parameter.requires_grad_(name not in table.frozen)
