"""Models as the command line names them: files to read and to write."""

import argparse
import importlib
import os
import sys

import torch.fx as fx
from rich.console import Console
from torch import nn

from fxgrow.errors import FileError
from fxgrow.files import load, save


def load_model(path: str, args: argparse.Namespace) -> fx.GraphModule:
    """Load a model file as the arguments of `fxgrow.cli.parser.add_loading` allow."""
    base = import_base(args.base) if args.base else None
    return load(path, base=base, allow_pickle=args.unsafe_pickle)


def import_base(spelling: str) -> nn.Module:
    """Import and call what ``MODULE:CALLABLE`` names.

    Raises:
        FileError: If there is no such thing, or it does not build an nn.Module.
    """
    where, fix = f"--base {spelling}", "write MODULE:CALLABLE, as in my_project.models:make_mlp"
    module_name, _, name = spelling.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` does, and console scripts do not
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module_name), name)()
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise FileError(f"it cannot be imported and called ({error})", where=where, fix=fix) from error
    if not isinstance(made, nn.Module):
        raise FileError(f"it returned a {type(made).__qualname__}, not an nn.Module", where=where, fix=fix)
    return made


def write_model(graph_module: fx.GraphModule, args: argparse.Namespace, console: Console) -> None:
    """Save a model where the arguments of `fxgrow.cli.parser.add_output` say, and tell the user."""
    save(graph_module, args.output, overwrite=args.force)
    console.print(f"wrote {args.output}", markup=False)
