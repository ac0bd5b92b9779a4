"""A model as safetensors, which `fxgrow.load` reads back."""

import os

from torch import Tensor, nn

from fxgrow.errors import ExportError, first_line
from fxgrow.files.atomic import check_output, whole_or_nothing
from fxgrow.files.safetensors_file import metadata_of
from fxgrow.files.writing import document_of
from fxgrow.primitives.unwrapping import unwrap


def export_safetensors(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the weights as safetensors, with the table of the model in the metadata.

    Anybody reads the weights under the names that they have in the model; `fxgrow.load` reads the model.

    Raises:
        ExportError: If safetensors has no word for a dtype, or is not installed.
        FileError: If the file cannot be written, or the model holds what no file can.
        TraceError: If the model is not traced.
    """
    target = check_output(path, overwrite=overwrite)
    try:
        from safetensors.torch import save
    except ImportError as error:
        fix = "pip install 'fxgrow[export]'"
        raise ExportError("it needs safetensors, which is not installed", where=str(path), fix=fix) from error
    document = document_of(unwrap(model))
    tensors, aliases = _without_ties({**document["buffers"], **document["state_dict"]})
    try:
        content = save(tensors, metadata_of(document, aliases))
    except (ValueError, KeyError, RuntimeError) as error:
        what = f"safetensors cannot hold it ({first_line(error)[:160]})"
        raise ExportError(what, where=str(path), fix="save it with fxgrow.save") from error
    with whole_or_nothing(target) as stream:
        stream.write(content)


def _without_ties(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, and for every other name of one the name that it is written under."""
    written: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if first.setdefault(id(tensor), name) == name:
            written[name] = tensor.contiguous()
        else:
            aliases[name] = first[id(tensor)]
    return written, aliases
