"""Two recordings of one model, in train and in eval mode, compared step by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.tracing.tracer import ModelTracer, ModuleCall, Opaque, node_of

_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModeDifference:
    """An argument of a node, at `key` into ``(args, kwargs)``, that depends on the mode."""

    node: fx.Node
    key: tuple[Any, ...]
    train: Any
    evaluation: Any


def align(
    evaluation: ModelTracer, train: ModelTracer, constants: Mapping[str, Tensor]
) -> tuple[list[ModeDifference], list[Opaque]]:
    """Return the constants in which two recordings differ, and the modules that differ in more than constants.

    Args:
        evaluation: The recording in eval mode.
        train: The recording in train mode.
        constants: Tensors that tracing created, of both recordings: ``eval:`` or ``train:`` and the attribute's name.

    Returns:
        The constants by node of the first recording, and the innermost modules that do something else in train mode.
    """
    comparison = _Comparison(constants)
    comparison.compare_calls(evaluation.calls[0], train.calls[0], ())
    return comparison.differences, comparison.findings


class _Comparison:
    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        self.constants = constants
        self.partner: dict[fx.Node, fx.Node] = {}
        self.differences: list[ModeDifference] = []
        self.findings: list[Opaque] = []

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
            return "does different things in train and in eval mode"
        for first, second in zip(ours, theirs, strict=True):
            if isinstance(first, ModuleCall) and isinstance(second, ModuleCall):
                self.compare_calls(first, second, (*stack, first.path))
            elif isinstance(first, fx.Node) and isinstance(second, fx.Node) and not self._same_node(first, second):
                return "wires its operations differently in train and in eval mode"
        return None

    def _same_node(self, first: fx.Node, second: fx.Node) -> bool:
        self.partner[first] = second
        return self._equal((first.args, first.kwargs), (second.args, second.kwargs), first, ())

    def _pair(self, first: Any, second: Any) -> None:
        """Take the values that a module returned in both modes for the same."""
        first, second = _plain(first), _plain(second)
        if isinstance(first, fx.Node) and isinstance(second, fx.Node):
            self.partner[first] = second
        left, right = _items(first), _items(second)
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
            return self.partner.get(first) is second or self._same_attribute(first, second)
        if isinstance(first, Tensor):
            return isinstance(second, Tensor) and (first is second or bool(torch.equal(first, second)))
        if isinstance(first, tuple | list | Mapping | slice):
            return self._equal_items(_items(first), _items(second), node, key)
        if type(first) is type(second) and bool(first == second):
            return True
        if node is None or not isinstance(first, _CONSTANTS) or not isinstance(second, _CONSTANTS):
            return False
        self.differences.append(ModeDifference(node, key, train=second, evaluation=first))
        return True

    def _equal_items(self, first: Any, second: Any, node: fx.Node | None, key: tuple[Any, ...]) -> bool:
        if first is None or second is None or first.keys() != second.keys():
            return False
        return all(self._equal(first[name], second[name], node, (*key, name)) for name in first)


def _steps(call: ModuleCall) -> list[ModuleCall | fx.Node]:
    """Return what a call did. When it read an attribute makes no difference: what matters is who uses it."""
    return [child for child in call.children if isinstance(child, ModuleCall) or child.op != "get_attr"]


def _kind(step: ModuleCall | fx.Node) -> object:
    return step.path if isinstance(step, ModuleCall) else (step.op, step.target)


def _plain(value: Any) -> Any:
    return node_of(value) if isinstance(value, fx.Proxy) else value


def _items(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop, "step": value.step}
    return dict(enumerate(value)) if isinstance(value, tuple | list) else None


def replace_argument(node: fx.Node, key: tuple[Any, ...], value: fx.Node) -> None:
    """Put `value` at `key` into the arguments of `node`; `key` is as in `ModeDifference`."""
    args, kwargs = _replaced((node.args, node.kwargs), key, value)
    node.args, node.kwargs = args, kwargs


def _replaced(container: Any, key: tuple[Any, ...], value: fx.Node) -> Any:
    if not key:
        return value
    items = _items(container)
    assert items is not None
    items[key[0]] = _replaced(items[key[0]], key[1:], value)
    if isinstance(container, Mapping):
        return items
    if isinstance(container, slice):
        return slice(items["start"], items["stop"], items["step"])
    return type(container)(items.values()) if type(container) in (tuple, list) else tuple(items.values())
