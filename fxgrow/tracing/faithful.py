"""Tracing until what is traced is the model: module after module is kept whole where it must be."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.errors import TraceError, VerificationError
from fxgrow.execution.shapes import ShapeError, complete_shapes, propagate_shapes
from fxgrow.graph.normalisation import normalise
from fxgrow.tracing.arguments import Call
from fxgrow.tracing.calls import Opaque
from fxgrow.tracing.capture import Capture, MustStayWholeError, capture
from fxgrow.tracing.computed_bias import separate_computed_biases
from fxgrow.tracing.detaching import detach_without_gradient
from fxgrow.tracing.obstacles import obstacle
from fxgrow.tracing.weights import spelled_share

PARTS = "trace those of its submodules that pass by themselves, and put each back in the place of the original"


@dataclass(frozen=True)
class FaithfulTrace:
    """A traced model and what it took."""

    graph_module: fx.GraphModule
    leaves: tuple[str, ...]  #: modules that stay whole beside those that always do
    reasons: Mapping[str, str]  #: why, for those that were found to need it
    notes: tuple[str, ...]


def trace_faithfully(
    model: nn.Module, call: Call, leaves: Collection[str], gate: Callable[[fx.GraphModule], None] | None
) -> FaithfulTrace:
    """Trace `model`, keeping one more module whole each time that one turns out to need it.

    The caller preserves the model's state, which tracing moves.

    Args:
        model: The model.
        call: How it is called.
        leaves: Paths of modules that stay whole from the start.
        gate: Raises VerificationError if a traced model is not the model.

    Raises:
        TraceError: If the model cannot be traced, or if what was traced is not the model whatever stays whole.
    """
    whole, reasons, notes = set(leaves), dict[str, str](), list[str]()
    cause = obstacle(model)
    if cause is not None:
        notes.append(f"the model itself {cause}")
    while True:
        try:
            captured = capture(model, call, whole)
            _normalise(captured.graph_module, call.inputs)
            if gate is not None:
                _pass_gate(gate, captured, whole, cause)
            return FaithfulTrace(captured.graph_module, tuple(sorted(whole)), reasons, (*notes, *captured.notes))
        except MustStayWholeError as failure:
            added: set[str] = set()
            for finding in failure.findings:
                if added.intersection(finding.stack):
                    continue  # it lies in a module that an earlier finding keeps whole
                path = next((path for path in reversed(finding.stack) if path not in whole), None)
                if path is None:
                    raise _refuse(finding, model) from failure.__cause__
                whole.add(path)
                added.add(path)
                reasons[path] = finding.reason
                notes.append(f"{path} stays whole{spelled_share([path], model)}: {finding.reason}")


def _normalise(graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Find out whether the graph runs at all, and bring it to its normal form."""
    try:
        propagate_shapes(graph_module, inputs)
    except ShapeError as error:
        stack = tuple(path for path, _ in error.node.meta.get("nn_module_stack", {}).values())
        raise MustStayWholeError([Opaque(stack, f"does not run as it was traced: {error.what}")]) from error
    normalise(graph_module)
    complete_shapes(graph_module)
    detach_without_gradient(graph_module)
    separate_computed_biases(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _pass_gate(
    gate: Callable[[fx.GraphModule], None], captured: Capture, whole: Collection[str], cause: str | None
) -> None:
    """Let the gate judge; where it finds a difference, doubt the modules in which tracing decided something."""
    try:
        gate(captured.graph_module)
    except VerificationError as error:
        doubtful = [finding for finding in captured.doubts if finding.stack and finding.stack[-1] not in whole]
        if doubtful:
            raise MustStayWholeError(doubtful) from error
        what = f"the traced graph is not the model: {error.what}"
        if cause is not None:
            raise TraceError(
                f"the model {cause}; {what}", where=error.where, fix="take that off before tracing"
            ) from error
        raise TraceError(what, where=error.where, fix=PARTS) from error


class UntraceableError(TraceError):
    """Nothing is left to keep whole: a part of the model may still be traced."""


def _refuse(finding: Opaque, model: nn.Module) -> TraceError:
    """Return the error for a module that nothing is left to keep whole around."""
    where = finding.stack[-1] if finding.stack else type(model).__name__
    if "train and in eval" in finding.reason:
        fix = "build it without what only training needs, as aux_logits=False in torchvision"
        return TraceError(finding.reason, where=where, fix=fix)
    return UntraceableError(finding.reason, where=where, fix="trace a submodule of it and put that back")
