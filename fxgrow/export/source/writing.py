"""Write a model as readable PyTorch source and a file of weights, which need no fxgrow."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import ExportError, first_line
from fxgrow.export.folder import check_folder, make_folder
from fxgrow.export.grown import grown_at
from fxgrow.export.source.checking import check_equal
from fxgrow.export.source.classes import ClassWriter, WrittenClass
from fxgrow.export.source.expressions import Helpers
from fxgrow.export.source.members import Members
from fxgrow.export.source.scopes import find_scopes, without_identities
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.record import record_of

_LOAD = '''\
WEIGHTS = Path(__file__).with_name("weights.safetensors")


def load(path: str | Path = WEIGHTS) -> {name}:
    """Build the model and read its weights; it is in {mode} mode."""
    model = {name}()
    load_model(model, path)
    return model.{call}
'''


def export_source(model: nn.Module, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write ``model.py`` and ``weights.safetensors``: nested modules in the structure that the model had.

    What is written loads and trains with torch and safetensors alone. Before it is written it is run beside the model:
    outputs are equal bit for bit, in train and eval mode.

    Args:
        model: A traced or grown model.
        folder: Where to; it is made if it is missing.
        overwrite: Whether files that are there already may be replaced.

    Returns:
        The path of ``model.py``.

    Raises:
        ExportError: If the model calls what plain torch does not have, or files are there already.
        TraceError: If the model is not traced.

    Example:
        >>> fxgrow.export.export_source(grown, "grown")  # doctest: +SKIP
    """
    from safetensors.torch import save_model

    graph_module = unwrap(model)
    source, weights = check_folder(folder, ("model.py", "weights.safetensors"), overwrite=overwrite)
    text, renamed = source_of(graph_module)
    written = build(text, graph_module, renamed)
    check_equal(graph_module, written)
    make_folder(folder)
    with TemporaryDirectory(prefix=".weights", dir=folder) as beside, whole_or_nothing(source) as stream:
        save_model(written, f"{beside}/whole")
        os.replace(f"{beside}/whole", weights)
        stream.write(text.encode())
    return source


def source_of(graph_module: fx.GraphModule) -> tuple[str, dict[str, str]]:
    """Return the text of a model, and the names that its tensors have there, by their names in the model.

    Raises:
        ExportError: As for `export_source`.
    """
    helpers, graph = Helpers(), without_identities(graph_module)
    root = find_scopes(graph_module, graph)
    members = Members(graph_module, root, helpers)
    held = _held(graph_module, members)
    renamed = {name: members.renamed(name) for name in held}
    writer = ClassWriter(graph_module, graph, root, members, helpers, _kinds(graph_module))
    classes = writer.write([*_ties(held, renamed), *_frozen(graph_module, renamed)])
    return _file(graph_module, classes, helpers), renamed


def _held(graph_module: fx.GraphModule, members: Members) -> dict[str, torch.Tensor]:
    """Return the tensors of what the source holds, by name; tied ones under each of their names."""
    parameters = dict(graph_module.named_parameters(remove_duplicate=False))
    buffers = dict(graph_module.named_buffers(remove_duplicate=False))
    tensors: dict[str, torch.Tensor] = {**parameters, **buffers}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in members.leaves or any(path in members.leaves for path in _above(name))
    }


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _ties(held: dict[str, torch.Tensor], renamed: dict[str, str]) -> Iterator[str]:
    first: dict[int, str] = {}
    for name, tensor in held.items():
        if isinstance(tensor, nn.Parameter) and first.setdefault(id(tensor), name) != name:
            path, _, attribute = renamed[name].rpartition(".")
            yield f'self.get_submodule("{path}").{attribute} = self.get_parameter("{renamed[first[id(tensor)]]}")'


def _frozen(graph_module: fx.GraphModule, renamed: dict[str, str]) -> Iterator[str]:
    for name, parameter in graph_module.named_parameters():
        if name in renamed and not parameter.requires_grad and parameter.dtype.is_floating_point:
            yield f'self.get_parameter("{renamed[name]}").requires_grad_(False)'


def _kinds(graph_module: fx.GraphModule) -> dict[str, str]:
    """Return the names of the classes that the modules had, and of pseudo-layers their operators."""
    kinds = {"": type(graph_module).__name__.strip("_")}
    for node in graph_module.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
            kinds.setdefault(str(path), name.strip("_"))
    return kinds | {grown.path: f"{grown.operator.capitalize()}PseudoLayer" for grown in grown_at(graph_module)}


def _file(graph_module: fx.GraphModule, classes: list[WrittenClass], helpers: Helpers) -> str:
    name = classes[-1].name
    call = "train()" if graph_module.training else "eval()"
    load = _LOAD.format(name=name, mode="train" if graph_module.training else "eval", call=call)
    body = "\n\n\n".join([*helpers.sources.values(), *(written.source() for written in classes), load.rstrip()])
    return f"{_docstring(graph_module, name)}\n\n{_imports(body)}\n\n\n{body}\n"


def _imports(body: str) -> str:
    used = {
        "import math": "math.", "import operator": "operator.", "from dataclasses import dataclass": "@dataclass",
        "from pathlib import Path": "Path(", "from typing import Any": "Any",
        "import torch": "torch.", "import torch.nn.functional as F": "F.",
    }  # fmt: skip
    lines = [line for line, mark in used.items() if re.search(rf"[ (=\[\-\n]{re.escape(mark)}", f"\n{body}")]
    standard = [line for line in lines if "torch" not in line]
    others = [line for line in lines if "torch" in line and line != "import torch.nn.functional as F"]
    functional = [line for line in lines if line == "import torch.nn.functional as F"]
    names = "Tensor, nn" if "Tensor" in body else "nn"
    imports = [*others, *functional, "from safetensors.torch import load_model", f"from torch import {names}"]
    return "\n".join([*standard, "", *imports])


def _docstring(graph_module: fx.GraphModule, name: str) -> str:
    from fxgrow import __version__

    record = record_of(graph_module)
    origin = f", from {record.origin.spelling}" if record.origin else ""
    lines = [f'"""{name}{origin}, as fxgrow {__version__} wrote it; it needs torch and safetensors.', ""]
    for number, event in enumerate(record.history, start=1):
        neurons, sites = sum(g.neurons for g in event.growths), len({g.site for g in event.growths})
        sizes = f"{event.parameters_before:,} to {event.parameters_after:,} parameters"
        lines.append(f"Growth {number}: {neurons} neurons at {sites} sites, {sizes}.")
    return "\n".join([*lines, *([""] if record.history else []), "``load()`` returns it with its weights.", '"""'])


def build(text: str, graph_module: fx.GraphModule, renamed: dict[str, str]) -> nn.Module:
    """Build the model that a text describes, with the weights of the graph.

    Raises:
        ExportError: If the text does not run, or the weights do not fit it.
    """
    scope: dict[str, Any] = {"__name__": "exported", "__file__": "model.py"}
    try:
        exec(compile(text, "model.py", "exec"), scope)
        written: nn.Module = scope[text.rpartition("    model = ")[2].partition("(")[0]]()
        tensors = {**dict(graph_module.named_buffers(remove_duplicate=False)), **graph_module.state_dict()}
        present = written.state_dict()
        weights = {new: tensors[old].detach().cpu() for old, new in renamed.items() if new in present}
        written.load_state_dict(weights, strict=True)
    except (SyntaxError, NameError, TypeError, RuntimeError, AttributeError) as error:
        what = f"what was written for it does not run ({first_line(error)[:160]})"
        raise ExportError(
            what, where=type(graph_module).__name__, fix="export it --to pt2 or onnx, and report it"
        ) from error
    return written.train(graph_module.training)
