"""Control flow on sizes: what a size is for the example inputs, unless it depends on the batch.

torch.fx records ``x.shape[1]`` as an operation and cannot decide ``if x.shape[1] > 7``. The size is known, though, as
the example inputs are. A decision taken on it holds for inputs of that size only, so the graph gets an assertion of it.
"""

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.fx as fx
from torch import nn
from torch.fx import _symbolic_trace
from torch.fx.proxy import Attribute

from fxgrow.execution.fake_execution import FakeExecution, ShapeError
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.tracing.arguments import Call

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer

_GRADIENT_ATTRIBUTES = {"requires_grad", "grad_fn", "grad", "is_leaf"}


class UnknownSizeError(RuntimeError):
    """A decision depends on the values of tensors, or on the size of the batch; internal to tracing."""


class Sizes:
    """The values of nodes that follow from the sizes of the example inputs alone.

    Args:
        root: The model that is being traced.
        graph: The graph as far as it is recorded.
        call: How the model is called.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, call: Call) -> None:
        self.graph = graph
        placeholders = graph.find_nodes(op="placeholder")
        self.executions = []
        for inputs in call.at_two_batch_sizes():
            execution = FakeExecution(root, graph)
            for node, value in zip(placeholders, inputs, strict=True):
                execution.set_input(node, value)
            self.executions.append(execution)

    def value(self, node: fx.Node) -> Any:
        """Return the value of `node`, a number or a sequence of numbers.

        Raises:
            UnknownSizeError: If it is a tensor, or another one at another batch size.
        """
        with _untraced(), preserved_randomness():
            values = [self._evaluate(execution, node) for execution in self.executions]
        if any(value != values[0] for value in values):
            raise UnknownSizeError("its control flow depends on the size of the batch")
        return values[0]

    def length(self, node: fx.Node) -> int:
        """Return the number of items of a tuple, or the leading dimension of a tensor.

        Raises:
            UnknownSizeError: If it has none, or another one at another batch size.
        """
        with _untraced(), preserved_randomness():
            lengths = {len(self._compute(execution, node)) for execution in self.executions}
        if len(lengths) > 1:
            raise UnknownSizeError("its control flow depends on the size of the batch")
        return lengths.pop()

    def _evaluate(self, execution: FakeExecution, node: fx.Node) -> Any:
        value = self._compute(execution, node)
        if not _plain(value):
            raise UnknownSizeError("its control flow depends on the values of tensors")
        if _asks_for_gradients(node, execution.env):
            raise UnknownSizeError("its control flow depends on whether gradients are recorded")
        return value

    def _compute(self, execution: FakeExecution, node: fx.Node) -> Any:
        needed, pending = {node}, [node]
        while pending:
            for value in pending.pop().all_input_nodes:
                if value not in needed and value not in execution.env:
                    needed.add(value)
                    pending.append(value)
        try:
            for candidate in self.graph.nodes:
                if candidate in needed:
                    execution.compute(candidate)
        except ShapeError as error:
            raise UnknownSizeError(error.what) from error
        return execution.env[node]


class SizeProxy(fx.Proxy):
    """A proxy that can be counted, used as an index, compared where sizes decide, and written into."""

    def __getattr__(self, k: str) -> Any:
        # nn.MultiheadAttention asks for it, and there is nothing to decide: what is traced is no nested tensor.
        return False if k == "is_nested" else _SizeAttribute(self, k)

    def __len__(self) -> int:
        tracer: ModelTracer = self.tracer  # type: ignore[assignment]
        return tracer.sizes.length(self.node)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __index__(self) -> int:
        return int(_decided(self, int))

    def __int__(self) -> int:
        return int(_decided(self, int))

    def __float__(self) -> float:
        return float(_decided(self, float))


class _SizeAttribute(Attribute, SizeProxy):
    """An attribute of a value, as ``x.shape``, of the same kind."""


def _decided(proxy: fx.Proxy, kind: type) -> Any:
    tracer: ModelTracer = proxy.tracer  # type: ignore[assignment]
    return kind(tracer.decide(proxy))


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _asks_for_gradients(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Say whether a plain value comes from an attribute that differs between training and inference."""
    if node.target is getattr and node.args[1] in _GRADIENT_ATTRIBUTES:
        return True
    return any(_asks_for_gradients(source, values) for source in node.all_input_nodes if _plain(values[source]))


@contextmanager
def _untraced() -> Iterator[None]:
    """Let modules run, for a moment, as they do when nothing is traced."""
    patched = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__ = _symbolic_trace._orig_module_call  # type: ignore[method-assign]
    nn.Module.__getattr__ = _symbolic_trace._orig_module_getattr  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = patched  # type: ignore[method-assign]
