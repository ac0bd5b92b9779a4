"""What is known of values while a model is traced: computed on fake tensors, as the example inputs have it.

torch.fx records ``x.shape[1]`` as an operation and cannot decide ``if x.shape[1] > 7``. The size is known, though, as
the example inputs are. A decision taken on it holds for inputs of that size only, so the graph gets an assertion of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.execution.fake_execution import FakeExecution, ShapeError, ancestors
from fxgrow.tracing.arguments import Call

_GRADIENT_ATTRIBUTES = {"requires_grad", "grad_fn", "grad", "is_leaf"}

#: methods of tensors that return what no graph can follow
_OUT_OF_TORCH = ("numpy", "data_ptr")


class UnknownValueError(RuntimeError):
    """A decision depends on the values of tensors, or on the size of the batch; internal to tracing."""


class IntegerFromDataError(UnknownValueError):
    """It depends on a whole number that follows from integer inputs, as the largest of some lengths."""


class Values:
    """The values of nodes as they follow from the shapes of the example inputs.

    Args:
        root: The model that is being traced.
        graph: The graph as far as it is recorded.
        call: How the model is called.

    Attributes:
        computing: Whether a value is being computed: what runs then is no part of the trace.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, call: Call) -> None:
        self.computing = False
        self.executions = [FakeExecution(root, graph) for _ in range(2)]
        names = [argument.name for argument in call.arguments]
        self.inputs = [dict(zip(names, inputs, strict=True)) for inputs in call.at_two_batch_sizes()]

    def example(self, node: fx.Node) -> Any:
        """Return what `node` is for the example inputs: a fake tensor, a number, or a structure of them.

        Raises:
            UnknownValueError: If it cannot be computed on the shapes of its inputs.
        """
        with self._apart():
            return self._compute(0, node)

    def value(self, node: fx.Node) -> Any:
        """Return the value of `node`, a number or a sequence of numbers.

        Raises:
            UnknownValueError: If it is a tensor, or another one at another batch size.
        """
        with self._apart():
            values = [self._compute(index, node) for index in range(2)]
        if not _plain(values[0]) or self._follows_from_data(node):
            raise self._depends_on_values(node)
        if values[1] != values[0]:
            raise UnknownValueError("its control flow depends on the size of the batch")
        return values[0]

    def length(self, node: fx.Node) -> int:
        """Return the number of items of a tuple, or the leading dimension of a tensor.

        Raises:
            UnknownValueError: If it has none, or another one at another batch size.
        """
        with self._apart():
            lengths = {len(self._compute(index, node)) for index in range(2)}
        if len(lengths) > 1:
            raise UnknownValueError("its control flow depends on the size of the batch")
        return lengths.pop()

    def integer(self, node: fx.Node) -> int:
        """Return the whole number at `node`, which follows from integer inputs."""
        with self._apart():
            return int(self.executions[0].held(node))

    def _depends_on_values(self, node: fx.Node) -> UnknownValueError:
        value = self.executions[0].env[node]
        integral = isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool
        with self._apart():
            known = integral and value.numel() == 1 and self.executions[0].held(node) is not None
        kind = IntegerFromDataError if known else UnknownValueError
        return kind(f"its control flow depends on the values of {_inputs_behind(node)}")

    def asks_for_gradients(self, node: fx.Node) -> bool:
        """Say whether a plain value comes from an attribute that differs between training and inference."""
        return any(value.target is getattr and value.args[1] in _GRADIENT_ATTRIBUTES for value in self._numbers(node))

    def _follows_from_data(self, node: fx.Node) -> bool:
        """Say whether a number was found with ones in place of the values that it follows from."""
        return not self._numbers(node).isdisjoint(self.executions[0].guessed)

    def _numbers(self, node: fx.Node) -> set[fx.Node]:
        """Return a number and those that it is calculated from, up to those that are read off tensors."""
        execution = self.executions[0]
        tensors = {value for value in execution.env if not _plain(execution.env[value])} - execution.guessed
        return ancestors(node, known=tensors)

    def _compute(self, index: int, node: fx.Node) -> Any:
        execution = self.executions[index]
        try:
            for candidate in sorted(ancestors(node, known=execution.env)):
                if candidate.op == "placeholder":
                    execution.set_input(candidate, self.inputs[index][str(candidate.target)])
                execution.compute(candidate)
        except ShapeError as error:
            what = error.what
            if error.node.op == "call_method" and error.node.target in _OUT_OF_TORCH:
                what = f"it takes the values of {_inputs_behind(error.node)} out of PyTorch, by {error.node.target}()"
            raise UnknownValueError(what) from error
        return execution.env[node]

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Keep what runs now out of the trace."""
        self.computing = True
        try:
            yield
        finally:
            self.computing = False


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | torch.layout)


def _inputs_behind(node: fx.Node) -> str:
    inputs = sorted({str(source.target) for source in ancestors(node) if source.op == "placeholder"})
    return ", ".join(inputs) or "tensors"
