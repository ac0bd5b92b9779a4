"""Say what a file of PyTorch is, when it is not a model of fxgrow. Nothing is unpickled here."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import FileError, first_line
from fxgrow.files.archive import REBUILD, RISK


class PickledFileError(FileError):
    """A file holds a pickled object, and reading it would run whatever code it asks for."""


def describe_pickle(path: str | os.PathLike[str], error: Exception, where: str) -> FileError:
    """Return the error for a file that `torch.load(weights_only=True)` refused, from the names that it refers to."""
    names = _foreign_names(path, str(error))
    if not names:
        first = first_line(error)[:100]
        return FileError(f"PyTorch cannot read it ({first})", where=where, fix="restore it from a copy")
    kind = "a pickled Python object"
    if any(name.startswith("torch.fx.graph_module.reduce") for name in names):
        kind = "a pickled GraphModule"
    elif any(name.startswith(("torch.nn.modules.", "timm.", "torchvision.")) for name in names):
        kind = "a pickled nn.Module"
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    fix = f"{REBUILD}, or allow it with --unsafe-pickle (allow_pickle=True) if you trust whoever made it"
    return PickledFileError(f"it is {kind} ({shown}), {RISK}", where=where, fix=fix)


def _foreign_names(path: str | os.PathLike[str], message: str) -> list[str]:
    """Return the importable names that a pickle refers to and that plain data does not need."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive: torch lists no names there, but its refusal holds the first
        return re.findall(r"GLOBAL (\S+)", message)[:1]


def describe_foreign(document: Any, where: str) -> FileError:
    """Return the error for a file that holds plain data which is not a model of fxgrow."""
    if isinstance(document, Mapping) and document and all(isinstance(v, Tensor) for v in document.values()):
        fix = "build the model, load_state_dict, fxgrow.trace it and fxgrow.save it"
        return FileError(
            f"it is a plain state_dict of {len(document)} tensors, without its model", where=where, fix=fix
        )
    if isinstance(document, Mapping):
        keys = ", ".join(str(key) for key in list(document)[:4]) + (", …" if len(document) > 4 else "")
        what = f"a dict with {keys}" if document else "an empty dict"
    else:
        what = f"a {type(document).__qualname__}"
    return FileError(f"it is a PyTorch file, but not a model of fxgrow: it holds {what}", where=where, fix=REBUILD)
