"""A model as a program of torch.export, and as ONNX, with what grew marked."""

import copy
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import ExportError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.export.grown import grown_at
from fxgrow.files.atomic import check_output, whole_or_nothing
from fxgrow.files.describing import describe
from fxgrow.files.retracing import example_inputs
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.provenance import provenance_of


def export_pt2(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model in eval mode as a program of torch.export; ``fxgrow.json`` in it says what grew.

    Raises:
        ExportError: If torch.export cannot take the model.
        FileError: If the file cannot be written.
        TraceError: If the model is not traced.
    """
    target, graph_module = check_output(path, overwrite=overwrite), unwrap(model)
    program = _program(graph_module)
    with whole_or_nothing(target) as stream:
        torch.export.save(program, stream, extra_files={"fxgrow.json": _grown_as_json(graph_module)})


def export_onnx(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model in eval mode as ONNX, for onnxruntime and Netron.

    What grew bears the path of its pseudo-layer in front of its name and in its metadata (``fxgrow.pseudo_layer``,
    ``fxgrow.site``); the model's metadata list the pseudo-layers as JSON (``fxgrow.grown``).

    Raises:
        ExportError: If the extra `export` is not installed, or the exporter cannot take the model.
        FileError: If the file cannot be written.
        TraceError: If the model is not traced.
    """
    target, graph_module = check_output(path, overwrite=overwrite), unwrap(model)
    exported = _program(graph_module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own libraries deprecate each other
            program = torch.onnx.export(exported, dynamo=True, verbose=False)
    except ImportError as error:
        raise ExportError("ONNX needs more packages", where=str(path), fix="pip install 'fxgrow[export]'") from error
    except Exception as error:  # whatever the exporter has no words for
        what = f"torch.onnx cannot take it ({first_line(error)[:160]})"
        raise ExportError(what, where=str(path), fix="export it --to pt2 or python") from error
    assert program is not None  # as dynamo=True promises
    _mark(program, graph_module)
    with whole_or_nothing(target) as stream:
        stream.write(program.model_proto.SerializeToString())


def _program(graph_module: fx.GraphModule) -> torch.export.ExportedProgram:
    """Return the program of a copy in eval mode, for batches of any size where the model takes them."""
    inputs = example_inputs(describe(graph_module))
    evaluated = copy.deepcopy(graph_module).cpu().eval()
    failure: Exception | None = None
    for shapes in (_any_batch(inputs), None):
        try:
            return torch.export.export(evaluated, inputs.args, dict(inputs.kwargs), dynamic_shapes=shapes)
        except Exception as error:  # torch.export raises errors of many kinds
            failure = error
    assert failure is not None
    where = type(graph_module).__name__
    what = f"torch.export cannot take it ({first_line(failure)[:160]})"
    raise ExportError(what, where=where, fix="export it --to onnx or python") from failure


def _any_batch(inputs: Inputs) -> Any:
    """Return dynamic shapes in which the first dimension of each tensor may change, where the graph lets it."""

    def free(value: Any) -> Any:
        is_batch = isinstance(value, torch.Tensor) and value.dim() > 0
        return {0: torch.export.Dim.AUTO} if is_batch else None

    return torch.utils._pytree.tree_map(free, (*inputs.args, *inputs.kwargs.values()))


def _grown_as_json(graph_module: fx.GraphModule) -> str:
    return json.dumps([asdict(grown) for grown in grown_at(graph_module)])


def _mark(program: Any, graph_module: fx.GraphModule) -> None:
    """Write what grew into the names and the metadata of an ONNX program."""
    parts = {node.name: made.part for node in program.exported_program.graph.nodes if (made := provenance_of(node))}
    for node in program.model.graph:
        part = parts.get(_fx_name(node.metadata_props))
        if part is not None:
            node.metadata_props.update({"fxgrow.pseudo_layer": part.path, "fxgrow.site": part.site})
            node.name = f"{part.path}/{node.name}"
    program.model.metadata_props["fxgrow.grown"] = _grown_as_json(graph_module)


def _fx_name(metadata: Mapping[str, str]) -> str:
    """Return the name of the node of torch.export that a node of ONNX comes from."""
    return metadata.get("pkg.torch.onnx.fx_node", "").partition(" ")[0].removeprefix("%")
