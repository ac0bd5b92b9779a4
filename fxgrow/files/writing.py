"""Write a model as one file, wholly or not at all."""

import os
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import FileError
from fxgrow.files.atomic import check_output, readable_path, whole_or_nothing
from fxgrow.files.checksums import checksum_of_tensor
from fxgrow.files.describing import describe
from fxgrow.files.layout import FORMAT, TABLE, VERSION, checksums_of
from fxgrow.files.plain import to_plain
from fxgrow.files.proof import prove
from fxgrow.files.reading import Contents, read
from fxgrow.files.retracing import example_inputs
from fxgrow.files.table import Table
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap


@checks_arguments(FileError, path="a path")
def save(graph_module: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False, check: bool = True) -> None:
    """Write `graph_module` to one file that `torch.load(weights_only=True)` can read.

    The file holds the graph as a table, the edit log and the history, the weights, and checksums; no code. It appears
    when it is whole and proven: it is read back, and the model that comes out of it is compared with this one, as far
    as that can be done without the base (`fxgrow.files.proof.prove`). An older file survives any failure.

    Args:
        graph_module: The model, as `fxgrow.trace` or `fxgrow.grow` returned it; also compiled, or wrapped in
            DistributedDataParallel.
        path: Where to write.
        overwrite: Whether a file that is there already may be replaced.
        check: Whether the file is read back; the proof holds the model in memory twice and runs it.

    Raises:
        FileError: If `graph_module` holds state that is not a tensor or was traced with inputs that a file cannot hold,
            if `load` would not give it back, or if the file exists already or cannot be written.
        TraceError: If `graph_module` is not traced.

    Example:
        >>> fxgrow.save(grown, "model.pt", overwrite=True)  # doctest: +SKIP
    """
    target = check_output(path, overwrite=overwrite)
    traced = unwrap(graph_module)
    document = document_of(traced)
    with whole_or_nothing(target) as stream:
        torch.save(document, stream)
        if check:
            prove(traced, _read_back(readable_path(stream), str(path)), str(path))
        check_output(path, overwrite=overwrite)  # somebody may have written it meanwhile


def _read_back(written: str, where: str) -> Contents:
    try:
        return read(written)
    except FileError as error:
        fix = "keep its weights, by torch.save of its state_dict(), and report what it is made of"
        raise FileError(f"load would refuse it: {error.what}", where=where, fix=fix) from error


def document_of(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Return what a file holds of a model (`fxgrow.files.layout`).

    Raises:
        FileError: If the model holds what a file cannot.
    """
    from fxgrow import __version__

    described = describe(graph_module)
    _check_inputs(described)
    table = to_plain(described)
    table["written_by"] = {"fxgrow": str(__version__), "torch": str(torch.__version__)}
    tensors = _tensors(graph_module)
    checksums = {name: checksum_of_tensor(tensor) for name, tensor in tensors.items()}
    kept = graph_module.state_dict(keep_vars=True)
    return {
        "format": FORMAT,
        "format_version": VERSION,
        TABLE: table,
        "state_dict": {name: tensor for name, tensor in tensors.items() if name in kept},
        "buffers": {name: tensor for name, tensor in tensors.items() if name not in kept},
        "checksums": checksums_of(table, checksums),
    }


def _check_inputs(table: Table) -> None:
    """Check that the inputs with which the model was traced can be made again: without them it cannot be loaded."""
    for name in table.record.trace_policy.get("objects", ()):
        what = "it was fixed at an object when the model was traced, and a file cannot hold that"
        raise FileError(what, where=name, fix="give forward a default for it, and trace without it")
    example_inputs(table)


def _tensors(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Return the state dict and all other buffers on the CPU; tied ones stay one, views leave their storage behind."""
    tensors: dict[str, Tensor] = {}
    copies: dict[tuple[object, ...], Tensor] = {}
    everything = {**dict(graph_module.named_buffers(remove_duplicate=False)), **graph_module.state_dict()}
    for name, value in everything.items():
        if not isinstance(value, Tensor):
            kind = type(value).__qualname__
            fix = "keep it in a buffer, or drop get_extra_state"
            raise FileError(f"its state is a {kind}, not a tensor", where=name, fix=fix)
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if key not in copies:
            tensor = value.detach().cpu()
            whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            copies[key] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
        tensors[name] = copies[key]
    return tensors
