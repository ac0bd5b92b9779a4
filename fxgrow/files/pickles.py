"""Read a pickled module, for a caller who has said that its maker is trusted."""

import os
import warnings
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import FileError, first_line


def unpickle(path: str | os.PathLike[str]) -> fx.GraphModule:
    """Unpickle a GraphModule or nn.Module, *which runs any code that the file asks for*, and return it as a graph.

    An nn.Module is traced by plain `torch.fx.symbolic_trace`, since a pickle does not say what inputs it takes.

    Raises:
        FileError: If the file holds anything else, or cannot be unpickled or traced here.
    """
    where = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on classes whose source has changed
            value: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # the pickle's own code may raise anything
        what = f"it cannot be unpickled here ({type(error).__name__}: {first_line(error)[:100]})"
        raise FileError(what, where=where, fix="import what defines its classes first") from error
    if isinstance(value, fx.GraphModule):
        return value
    if not isinstance(value, nn.Module):
        fix = "give a pickled GraphModule or nn.Module"
        raise FileError(f"it holds a {type(value).__qualname__}, not a module", where=where, fix=fix)
    try:
        return fx.symbolic_trace(value)
    except Exception as error:  # the model's own forward runs here
        fix = "torch.load it yourself and use fxgrow.trace(model, example_inputs)"
        what = f"its {type(value).__qualname__} cannot be traced without example inputs"
        raise FileError(what, where=where, fix=fix) from error
