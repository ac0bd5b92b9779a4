"""From a model to a GraphModule: record in both modes, keep modules whole where needed, and assemble."""

from collections.abc import Collection
from dataclasses import dataclass

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.execution.preservation import preserved
from fxgrow.graph.likeness import graph_module_like
from fxgrow.primitives.modules import add_module, fetch_attribute, fresh_path, resolves
from fxgrow.record.location import module_path
from fxgrow.tracing.alignment import ModeDifference, align, replace_argument
from fxgrow.tracing.arguments import Call
from fxgrow.tracing.calls import Opaque
from fxgrow.tracing.causes import cause_of
from fxgrow.tracing.functions import Function, rejecting_function, spelled
from fxgrow.tracing.mode_value import ModeValue
from fxgrow.tracing.tracer import ModelTracer
from fxgrow.tracing.values import IntegerFromDataError, UnknownValueError
from fxgrow.tracing.weights import notes_on_weights

_CONSTANT = "_tensor_constant"


@dataclass(frozen=True)
class Recording:
    """What one trace of a model gave."""

    tracer: ModelTracer
    graph: fx.Graph
    #: tensors that forward created while it was traced, by attribute name
    constants: dict[str, Tensor]


class MustStayWholeError(Exception):
    """Modules that have to become leaves before the model can be traced faithfully; internal to tracing."""

    def __init__(self, findings: list[Opaque]) -> None:
        super().__init__(findings[0].reason)
        self.findings = findings


@dataclass(frozen=True)
class Capture:
    """A traced model, what the user should know of it, and where to look first if it is not the model."""

    graph_module: fx.GraphModule
    notes: tuple[str, ...]
    doubts: tuple[Opaque, ...]


def capture(model: nn.Module, call: Call, leaves: Collection[str]) -> Capture:
    """Trace `model` in both modes into one GraphModule that follows the mode.

    The caller preserves the model's state (`fxgrow.execution.preservation`), which tracing moves.

    Raises:
        MustStayWholeError: If a module must become a leaf first.
    """
    functions: dict[Function, str] = {}  # kept as one node, and why
    while True:
        train, evaluation = _record_both(model, call, leaves, functions)
        constants = {f"eval:{name}": value for name, value in evaluation.constants.items()}
        constants |= {f"train:{name}": value for name, value in train.constants.items()}
        differences = align(evaluation.tracer, train.tracer, constants)
        new = dict.fromkeys(differences.functions, "does different things in train and in eval mode")
        if not new.keys() - functions.keys():
            break
        functions = {**new, **functions}
    if differences.modules:
        raise MustStayWholeError(differences.modules)
    notes = [f"{spelled(function)} is one node: {reason}" for function, reason in functions.items()]
    notes += dict.fromkeys([*evaluation.tracer.notes, *train.tracer.notes])
    notes += [*notes_on_weights(evaluation.graph, model), *_size_notes(evaluation)]
    notes += [*_constant_notes(evaluation), *_fixed_notes(call)]
    passing = _passing_parts(model, evaluation)
    if passing:
        raise MustStayWholeError(passing)
    graph_module = _assemble(model, evaluation, differences.constants)
    return Capture(graph_module, tuple(notes), tuple(_doubts(evaluation)))


def _record_both(
    model: nn.Module, call: Call, leaves: Collection[str], functions: dict[Function, str]
) -> tuple[Recording, Recording]:
    """Record in train and in eval mode, with `functions` as one node each, and add to them what rejects its arguments.

    A whole number that follows from the values of integer inputs is fixed, and asserted, where the model could not be
    traced otherwise.
    """
    fix_integers = False
    while True:
        try:
            train, evaluation = (
                _record(model, ModelTracer(call, leaves, functions, fix_integers=fix_integers), training=mode)
                for mode in (True, False)
            )
            return train, evaluation
        except MustStayWholeError as failure:
            error = failure.__cause__
            function = rejecting_function(error) if error else None
            if function is not None and function not in functions:
                functions[function] = failure.findings[0].reason
            elif isinstance(error, IntegerFromDataError) and not failure.findings[0].stack and not fix_integers:
                fix_integers = True
            else:
                raise


def _record(model: nn.Module, tracer: ModelTracer, *, training: bool) -> Recording:
    given = model.training
    with preserved(model):  # models keep what they computed, and it must not reach the next recording
        model.train(training)
        versions, attributes = _buffer_versions(model), set(vars(model))
        try:
            graph = tracer.record(model)
        except Exception as error:  # the model's own code runs here, and it may raise anything
            own = training is not given and not isinstance(error, UnknownValueError)  # the model may ask for its mode
            mode = f" in {'train' if training else 'eval'} mode, which a graph has too" if own else ""
            finding = Opaque(tracer.stack, f"cannot be traced{mode}: {cause_of(error)}")
            raise MustStayWholeError([finding]) from error
        new = [name for name in vars(model) if name not in attributes and name.startswith(_CONSTANT)]
        constants = {name: vars(model)[name] for name in new}
        findings = [*tracer.findings, *_updated_buffers(versions, _buffer_versions(model))]
    if any(finding.stack for finding in findings):
        raise MustStayWholeError([finding for finding in findings if finding.stack])
    tracer.notes += [f"the model's own forward {finding.reason}" for finding in findings]
    return Recording(tracer, graph, constants)


def _buffer_versions(model: nn.Module) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (path, name): (id(buffer), buffer._version)
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


def _updated_buffers(
    before: dict[tuple[str, str], tuple[int, int]], after: dict[tuple[str, str], tuple[int, int]]
) -> list[Opaque]:
    return [
        Opaque((path,) if path else (), f"updates its buffer {name}, which a graph does not record")
        for (path, name), version in before.items()
        if after.get((path, name)) != version
    ]


def _constant_notes(recording: Recording) -> list[str]:
    """Say how many tensors forward created while it was traced, where the first one came from, and its shape."""
    nodes = [node for node in recording.graph.find_nodes(op="get_attr") if str(node.target) in recording.constants]
    if not nodes:
        return []
    shape = tuple(recording.constants[str(nodes[0].target)].shape)
    where = module_path(nodes[0]) or "the model's own forward"
    return [f"{len(nodes)} tensors that forward creates are constants in the graph; the first, {shape}, in {where}"]


def _doubts(recording: Recording) -> list[Opaque]:
    """Name the modules in which tracing turned something into a constant."""
    nodes = [node for node in recording.graph.find_nodes(op="get_attr") if str(node.target) in recording.constants]
    stacks = [_stack(node) for node in [*nodes, *recording.tracer.decided]]
    return [
        Opaque(stack, "computes something that tracing would turn into a constant") for stack in dict.fromkeys(stacks)
    ]


def _size_notes(recording: Recording) -> list[str]:
    tracer = recording.tracer
    count = sum(not tracer.values.asks_for_gradients(node) for node in tracer.decided)
    return [f"{count} decisions on sizes hold for inputs of this size; others raise an error"] if count else []


def _fixed_notes(call: Call) -> list[str]:
    return [f"argument {item.name} is fixed at {item.value!r}" for item in call.arguments if item.fixed]


def _passing_parts(model: nn.Module, recording: Recording) -> list[Opaque]:
    """Name the modules that use a module, parameter or buffer which they made while they ran."""
    nodes = [*recording.graph.find_nodes(op="get_attr"), *recording.graph.find_nodes(op="call_module")]
    return [
        Opaque(_stack(node), f"makes {node.target} while it runs, which a graph does not record")
        for node in nodes
        if str(node.target) not in recording.constants and not _lasts(model, str(node.target))
    ]


def _lasts(model: nn.Module, path: str) -> bool:
    return resolves(model, path) and fetch_attribute(model, path) is not None


def _stack(node: fx.Node) -> tuple[str, ...]:
    return tuple(path for path, _ in node.meta.get("nn_module_stack", {}).values())


def _assemble(model: nn.Module, recording: Recording, differences: list[ModeDifference]) -> fx.GraphModule:
    for name, value in recording.constants.items():
        setattr(model, name, value)
    graph_module = graph_module_like(model, recording.graph)
    for name in recording.constants:
        delattr(model, name)
    for difference in differences:
        _follow_mode(graph_module, difference)
    return graph_module


def _follow_mode(graph_module: fx.GraphModule, difference: ModeDifference) -> None:
    """Read an argument that differs between the modes from a module that knows the mode."""
    stack = list(difference.node.meta.get("nn_module_stack", {}).values())
    name = next((part for part in reversed(difference.key) if isinstance(part, str)), "argument")
    path = fresh_path(graph_module, f"{stack[-1][0]}.{name}_by_mode" if stack else f"{name}_by_mode")
    add_module(graph_module, path, ModeValue(difference.train, difference.evaluation))
    with graph_module.graph.inserting_before(difference.node):
        value = graph_module.graph.call_module(path)
    value.meta["nn_module_stack"] = difference.node.meta.get("nn_module_stack", {})
    replace_argument(difference.node, difference.key, value)
