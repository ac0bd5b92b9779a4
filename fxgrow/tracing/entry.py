"""The door: a model in, a GraphModule of the same function out."""

from collections.abc import Collection
from typing import Any

import torch
import torch.fx as fx
from torch import nn
from torch.export import ExportedProgram

from fxgrow.errors import TraceError, VerificationError
from fxgrow.graph.batches import batch_size_of
from fxgrow.graph.location import first_line
from fxgrow.graph.preservation import preserved
from fxgrow.graph.record import Origin, update_record
from fxgrow.graph.shapes import ShapeError, propagate_shapes
from fxgrow.graph.sharing import share
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.tracing.arguments import Call, bind_call
from fxgrow.tracing.capture import MustStayWholeError, capture, refuse
from fxgrow.tracing.detaching import detach_without_gradient
from fxgrow.tracing.exported import reference_of, unpack
from fxgrow.tracing.tracer import Opaque
from fxgrow.verification import verify

_FROZEN = "an exported program stays in the mode that it was exported in, whatever .train() and .eval() say"


def trace(
    model: nn.Module | ExportedProgram, example_inputs: Any, *, origin: Origin | None = None, check: bool = True
) -> fx.GraphModule:
    """Trace `model` into a GraphModule that computes the same function in train and in eval mode.

    Modules that cannot be traced, or not without changing what they do, stay whole: they are trained, but nothing grows
    inside them; the record says which (`fxgrow.graph.record.record_of`). The result shares its parameters with `model`
    and has the same state_dict names. The model itself is left as it was.

    Args:
        model: The model. A GraphModule passes through, normalised and with shapes; so does a torch.export program,
            which stays in the mode that it was exported in.
        example_inputs: A tensor, a tuple of positional inputs, or a dict of keyword inputs. Arguments that are no
            tensors are fixed at their values, arguments left out at their defaults.
        origin: Where the model comes from, so that a file can rebuild it.
        check: Whether outputs and gradients are compared with the model's, in both modes and at two batch sizes.

    Returns:
        The traced model, with shapes and FLOPs on every node.

    Raises:
        TraceError: If the example inputs do not fit, the model cannot be traced, or what was traced is not the model.
    """
    if isinstance(model, ExportedProgram):
        reference: nn.Module = reference_of(model)
        graph_module = adopt(unpack(model), example_inputs)
        update_record(graph_module, trace_policy={"door": "torch.export"}, trace_notes=(_FROZEN,))
    elif isinstance(model, fx.GraphModule):
        reference, graph_module = model, adopt(model, example_inputs)
    else:
        reference, graph_module = model, trace_module(model, example_inputs, ())
    if check:
        _gate(reference, graph_module, example_inputs)
    if origin is not None:
        update_record(graph_module, origin=origin)
    return graph_module


def trace_module(model: nn.Module, example_inputs: Any, leaves: Collection[str]) -> fx.GraphModule:
    """Trace a module without the gate, keeping at least the modules at the paths `leaves` whole.

    Raises:
        TraceError: If the example inputs do not fit, or the model cannot be traced.
    """
    call = bind_call(model, example_inputs)
    with preserved(model):
        _check_inputs(model, example_inputs)
    with preserved(model):
        graph_module, whole, notes = _trace_faithfully(model, call, leaves)
    update_record(graph_module, trace_policy={"leaves": sorted(whole)}, trace_notes=tuple(dict.fromkeys(notes)))
    return graph_module


def adopt(graph_module: fx.GraphModule, example_inputs: Any) -> fx.GraphModule:
    """Return a copy of a GraphModule that somebody else captured, normalised and with shapes.

    Raises:
        TraceError: If it does not run on the example inputs.
    """
    shared = share(graph_module)
    propagate_shapes(shared, example_inputs)
    result: fx.GraphModule = FunctionalizeInplace()(shared).graph_module
    return result


def _trace_faithfully(
    model: nn.Module, call: Call, leaves: Collection[str]
) -> tuple[fx.GraphModule, set[str], list[str]]:
    """Trace, keeping one more module whole each time that one turns out to need it."""
    whole, notes = set(leaves), list[str]()
    while True:
        try:
            graph_module, remarks = capture(model, call, whole)
            _normalise(graph_module, call.inputs)
            return graph_module, whole, [*notes, *remarks]
        except MustStayWholeError as failure:
            for finding in failure.findings:
                candidates = [path for path in finding.stack if path not in whole]
                if not candidates:
                    raise refuse(finding, failure.cause, model) from failure.cause
                whole.add(candidates[-1])
                notes.append(f"{candidates[-1]} stays whole: {finding.reason}")


def _normalise(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Make in-place operations functional, and find out whether the graph runs at all."""
    FunctionalizeInplace().rewrite(graph_module)
    try:
        propagate_shapes(graph_module, inputs)
    except ShapeError as error:
        stack = tuple(path for path, _ in error.node.meta.get("nn_module_stack", {}).values())
        finding = Opaque(stack, f"does not run as it was traced: {error.what}")
        raise MustStayWholeError([finding], error) from error
    detach_without_gradient(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _check_inputs(model: nn.Module, example_inputs: Any) -> None:
    try:
        model.eval()
        with torch.no_grad():
            _call(model, example_inputs)
    except Exception as error:  # the model's own code runs here, and it may raise anything
        where = _failing_path(model, error) or type(model).__name__
        what = f"the model does not run on the example inputs: {first_line(error)}"
        raise TraceError(what, where=where, fix="give inputs of the shapes and dtypes that it takes") from error


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _failing_path(model: nn.Module, error: BaseException) -> str:
    """Return the path of the innermost module in whose methods `error` was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, traceback = "", error.__traceback__
    while traceback is not None:
        found = paths.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found


def _gate(model: nn.Module, graph_module: fx.GraphModule, example_inputs: Any) -> None:
    inputs = example_inputs if isinstance(example_inputs, dict | tuple) else (example_inputs,)
    size = min(batch_size_of(inputs), 2)
    try:
        verify(model, graph_module, inputs, batch_sizes=(size, size + 1) if size else None)
    except VerificationError as error:
        what = f"the traced graph is not the model: {error.what}"
        raise TraceError(what, where=error.where, fix="trace with check=False only if this is meant") from error
