"""The door: a model in, a GraphModule of the same function out."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import nn
from torch.export import ExportedProgram

from fxgrow.errors import TraceError, VerificationError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.preservation import preserved
from fxgrow.execution.shapes import complete_shapes, propagate_shapes
from fxgrow.execution.structures import batch_size_of, flatten
from fxgrow.graph.normalisation import normalise
from fxgrow.graph.sharing import share
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.modules import parameter_count
from fxgrow.primitives.unwrapping import bare, refuse_progressive
from fxgrow.record.record import Origin, record_of, update_record
from fxgrow.tracing.arguments import bind_call
from fxgrow.tracing.exported import reference_of, unpack
from fxgrow.tracing.faithful import UntraceableError, trace_faithfully
from fxgrow.tracing.parts import traceable_part
from fxgrow.tracing.priming import buffers_built_by
from fxgrow.verification import verify

_FROZEN = "an exported program stays in the mode that it was exported in, whatever .train() and .eval() say"

#: Of the gate: a number that was drawn while tracing, behind a seed of the user's, must not be drawn again.
_SEED = 0x66786772

#: errors that say more of a model's code than of what it was given
_OF_THE_CODE = (AttributeError, NameError, NotImplementedError, ImportError)


@checks_arguments(TraceError)
def trace(
    model: nn.Module | ExportedProgram, example_inputs: Any, *, origin: Origin | None = None, check: bool = True
) -> fx.GraphModule:
    """Trace `model` into a GraphModule that computes the same function in train and in eval mode.

    Modules that cannot be traced, or not without changing what they do, stay whole: they are trained, but nothing grows
    inside them; the record says which (`fxgrow.record.record.record_of`). The result shares its parameters with `model`
    and has the same state_dict names. The model itself is left as it was.

    Args:
        model: The model; of one that is compiled or in DistributedDataParallel, what lies inside. A GraphModule passes
            through, normalised and with shapes; so does a torch.export program, which stays in the mode that it was
            exported in.
        example_inputs: A tensor, a tuple of positional inputs, or a dict by the names of forward's parameters, with a
            tuple for ``*args``. Tuples, dicts, dataclasses and other objects that hold tensors are inputs too.
            Arguments that hold no tensor are fixed at their values, arguments left out at their defaults.
        origin: Where the model comes from, so that a file can rebuild it.
        check: Whether outputs and gradients are compared with the model's, in both modes and at two batch sizes.

    Returns:
        The traced model, with shapes and FLOPs on every node.

    Raises:
        TraceError: If the example inputs do not fit, the model cannot be traced, or what was traced is not the model.
    """
    model = model if isinstance(model, ExportedProgram) else bare(model)
    if isinstance(model, ExportedProgram):
        graph_module = _adopt(unpack(model), reference_of(model), example_inputs, check)
        update_record(graph_module, trace_policy={"door": "torch.export"}, trace_notes=(_FROZEN,))
    else:
        graph_module = _trace_or_name_a_part(model, example_inputs, check)
    if origin is not None:
        update_record(graph_module, origin=origin)
    return graph_module


def _trace_or_name_a_part(model: nn.Module, example_inputs: Any, check: bool) -> fx.GraphModule:
    try:
        return retrace(model, example_inputs, {}, check=check)
    except UntraceableError as error:
        path = traceable_part(model, Inputs.of(model, example_inputs))
        if path is None:
            raise
        share = parameter_count(model.get_submodule(path)) / max(parameter_count(model), 1)
        fix = f"trace {path}, a submodule of it with {share:.0%} of its parameters, and put that back"
        raise TraceError(error.what, where=error.where, fix=fix) from error


def retrace(model: nn.Module, example_inputs: Any, policy: Mapping[str, Any], *, check: bool = False) -> fx.GraphModule:
    """Trace a module as one with this `trace_policy` was traced (`fxgrow.record.record.Record`).

    Raises:
        TraceError: As `trace`.
    """
    model = bare(model)
    refuse_progressive(model)
    if policy.get("door") == "graph" or isinstance(model, fx.GraphModule):
        graph_module = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
        return _adopt(graph_module, graph_module, example_inputs, check)
    call = bind_call(model, example_inputs)
    inputs = Inputs.of(model, example_inputs)
    with preserved(model):
        built = buffers_built_by(lambda: _check_inputs(model, inputs), model)
    with preserved(model):
        for buffer in built:
            buffer.put()
        traced = trace_faithfully(
            model,
            call,
            policy.get("leaves", ()),
            (lambda graph_module: _compare(model, graph_module, inputs)) if check else None,
        )
    policy = {"leaves": list(traced.leaves), **call.policy}
    update_record(traced.graph_module, trace_policy=policy, trace_notes=traced.notes, whole=traced.reasons)
    return traced.graph_module


def _adopt(graph_module: fx.GraphModule, reference: nn.Module, example_inputs: Any, check: bool) -> fx.GraphModule:
    """Return a copy of a GraphModule that somebody else captured, normalised and with shapes."""
    result = share(graph_module)
    propagate_shapes(result, example_inputs)
    normalise(result)
    complete_shapes(result)
    result.recompile()
    if not record_of(result).trace_policy:
        update_record(result, trace_policy={"door": "graph"})
    if check:
        try:
            _compare(reference, result, Inputs.of(reference, example_inputs))
        except VerificationError as error:
            what = f"the normalised graph is not the model: {error.what}"
            raise TraceError(what, where=error.where, fix="give the graph as it was captured") from error
    return result


def _compare(model: nn.Module, graph_module: fx.GraphModule, inputs: Inputs) -> None:
    """Compare on two samples, and forwards on three: enough for BatchNorm, and cheap whatever the batch size.

    Raises:
        VerificationError: If they differ.
    """
    size = min(batch_size_of(inputs), 2)
    verify(model, graph_module, inputs, batch_sizes=(size,) if size else None, seed=_SEED)
    if size:
        verify(model, graph_module, inputs, batch_sizes=(size + 1,), gradients=False, seed=_SEED)


def _check_inputs(model: nn.Module, inputs: Inputs) -> None:
    try:
        model.eval()
        with torch.no_grad():
            inputs.call(model)
    except Exception as error:  # the model's own code runs here, and it may raise anything
        where = _failing_path(model, error) or type(model).__name__
        what = f"the model does not run on the example inputs: {first_line(error)}{_other_dtype(model, inputs)}"
        own = isinstance(error, _OF_THE_CODE)
        fix = "give inputs of the shapes and dtypes that it takes" + (", or mend it first" if own else "")
        raise TraceError(what, where=where, fix=fix) from error


def _other_dtype(model: nn.Module, inputs: Inputs) -> str:
    """Say that the inputs are of another floating-point dtype than the model, if they are."""
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {tensor.dtype for _, tensor in flatten(inputs) if tensor.is_floating_point()}
    if not own or not given or own & given:
        return ""
    return f" (the inputs are {min(map(str, given))}, and its parameters {min(map(str, own))})"


def _failing_path(model: nn.Module, error: BaseException) -> str:
    """Return the path of the innermost module in whose methods `error` was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, traceback = "", error.__traceback__
    while traceback is not None:
        found = paths.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found
