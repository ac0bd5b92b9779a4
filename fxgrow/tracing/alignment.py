"""Two recordings of one model, in train and in eval mode, compared step by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.execution.structures import parts_of, with_parts
from fxgrow.tracing.calls import ModuleCall, Opaque, node_of
from fxgrow.tracing.functions import Function
from fxgrow.tracing.tracer import ModelTracer

Step = ModuleCall | fx.Node
_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModeDifference:
    """An argument of a node, at `key` into ``(args, kwargs)``, that depends on the mode."""

    node: fx.Node
    key: tuple[Any, ...]
    train: Any
    evaluation: Any


@dataclass(frozen=True)
class Differences:
    """Where two recordings of a model differ."""

    constants: list[ModeDifference]  #: by node of the first recording
    modules: list[Opaque]  #: the innermost ones that do something else in train mode
    functions: list[Function]  #: what such modules call where they begin to differ: it may take the mode as an argument


def align(evaluation: ModelTracer, train: ModelTracer, constants: Mapping[str, Tensor]) -> "Differences":
    """Return the constants in which two recordings differ, and the functions or modules that differ in more.

    Args:
        evaluation: The recording in eval mode.
        train: The recording in train mode.
        constants: Tensors that tracing created, of both recordings: ``eval:`` or ``train:`` and the attribute's name.

    Returns:
        What differs.
    """
    comparison = _Comparison(constants, {**evaluation.callers, **train.callers})
    comparison.compare_calls(evaluation.calls[0], train.calls[0], ())
    return Differences(comparison.constants_by_node, comparison.findings, comparison.functions)


class _Comparison:
    def __init__(self, constants: Mapping[str, Tensor], callers: Mapping[fx.Node, Function | None]) -> None:
        self.constants, self.callers = constants, callers
        self.partner: dict[fx.Node, fx.Node] = {}
        self.constants_by_node: list[ModeDifference] = []
        self.findings: list[Opaque] = []
        self.functions: list[Function] = []

    def compare_calls(self, left: ModuleCall, right: ModuleCall, stack: tuple[str, ...]) -> None:
        """Compare two calls of one module; where they differ, go on as if the module were whole."""
        known = len(self.findings)
        reason = self._compare_contents(left, right, stack)
        if reason is None and not self._equal(left.result, right.result, None, ()):
            reason = "returns different values in train and in eval mode"
        if reason is not None and len(self.findings) == known:
            self.findings.append(Opaque(stack, reason))
        if len(self.findings) > known:
            self._pair(left.result, right.result)

    def _compare_contents(self, left: ModuleCall, right: ModuleCall, stack: tuple[str, ...]) -> str | None:
        ours, theirs = _steps(left), _steps(right)
        if [_kind(step) for step in ours] != [_kind(step) for step in theirs]:
            self._look_for_functions(ours, theirs)
            return "does different things in train and in eval mode"
        for first, second in zip(ours, theirs, strict=True):
            if isinstance(first, ModuleCall) and isinstance(second, ModuleCall):
                self.compare_calls(first, second, (*stack, first.path))
            elif isinstance(first, fx.Node) and isinstance(second, fx.Node) and not self._same_node(first, second):
                return "wires its operations differently in train and in eval mode"
        return None

    def _look_for_functions(self, ours: list[Step], theirs: list[Step]) -> None:
        """Note the functions in which two lists of steps begin to differ."""
        kinds = zip(map(_kind, ours), map(_kind, theirs), strict=False)
        first = next((i for i, (one, other) in enumerate(kinds) if one != other), min(len(ours), len(theirs)))
        for step in (*ours[first : first + 1], *theirs[first : first + 1]):
            function = self.callers.get(step) if isinstance(step, fx.Node) else None
            if function is not None:
                self.functions.append(function)

    def _same_node(self, first: fx.Node, second: fx.Node) -> bool:
        self.partner[first] = second
        return self._equal((first.args, first.kwargs), (second.args, second.kwargs), first, ())

    def _pair(self, first: Any, second: Any) -> None:
        """Take the values that a module returned in both modes for the same."""
        first, second = _plain(first), _plain(second)
        if isinstance(first, fx.Node) and isinstance(second, fx.Node):
            self.partner[first] = second
        left, right = parts_of(first), parts_of(second)
        for key in (left or {}).keys() & (right or {}).keys():
            self._pair(left[key], right[key])  # type: ignore[index]

    def _same_attribute(self, first: fx.Node, second: Any) -> bool:
        if not (isinstance(second, fx.Node) and first.op == second.op == "get_attr"):
            return False
        left, right = self.constants.get(f"eval:{first.target}"), self.constants.get(f"train:{second.target}")
        if left is None or right is None:
            return first.target == second.target
        return left.shape == right.shape and left.dtype == right.dtype and bool(torch.equal(left, right))

    def _equal(self, first: Any, second: Any, node: fx.Node | None, key: tuple[Any, ...]) -> bool:
        first, second = _plain(first), _plain(second)
        if isinstance(first, fx.Node):
            first, second = _laid_out(first), _laid_out(second)
            return self.partner.get(first) is second or self._same_attribute(first, second)
        if isinstance(first, Tensor):
            return isinstance(second, Tensor) and (first is second or bool(torch.equal(first, second)))
        if parts_of(first) is not None:
            return self._equal_items(parts_of(first), parts_of(second), node, key)
        if type(first) is type(second) and bool(first == second):
            return True
        if node is None or not isinstance(first, _CONSTANTS) or not isinstance(second, _CONSTANTS):
            return False
        self.constants_by_node.append(ModeDifference(node, key, train=second, evaluation=first))
        return True

    def _equal_items(self, first: Any, second: Any, node: fx.Node | None, key: tuple[Any, ...]) -> bool:
        if first is None or second is None or first.keys() != second.keys():
            return False
        return all(self._equal(first[name], second[name], node, (*key, name)) for name in first)


def _steps(call: ModuleCall) -> list[Step]:
    """Return what a call did. When it read an attribute makes no difference: what matters is who uses it."""
    return [child for child in call.children if isinstance(child, ModuleCall) or not _changes_nothing(child)]


def _changes_nothing(node: fx.Node) -> bool:
    """Say whether a node reads an attribute, or only lays out a value in memory, as some models do in training."""
    return node.op == "get_attr" or (node.op == "call_method" and node.target == "contiguous")


def _laid_out(value: Any) -> Any:
    """Return the node whose value a chain of ``contiguous`` lays out."""
    while isinstance(value, fx.Node) and value.op == "call_method" and value.target == "contiguous":
        value = value.args[0]
    return value


def _kind(step: Step) -> object:
    return step.path if isinstance(step, ModuleCall) else (step.op, step.target)


def _plain(value: Any) -> Any:
    return node_of(value) if isinstance(value, fx.Proxy) else value


def replace_argument(node: fx.Node, key: tuple[Any, ...], value: fx.Node) -> None:
    """Put `value` at `key` into the arguments of `node`; `key` is as in `ModeDifference`."""
    args, kwargs = _replaced((node.args, node.kwargs), key, value)
    node.args, node.kwargs = args, kwargs


def _replaced(container: Any, key: tuple[Any, ...], value: fx.Node) -> Any:
    if not key:
        return value
    items = parts_of(container)
    assert items is not None
    return with_parts(container, {**items, key[0]: _replaced(items[key[0]], key[1:], value)})
