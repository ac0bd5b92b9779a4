"""Running single nodes of a graph with fake tensors: shapes and dtypes without data."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import TraceError, first_line
from fxgrow.execution.inputs import device_of, input_metadata
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.structures import mapped
from fxgrow.primitives.modules import fetch_attribute, qualified_name
from fxgrow.record.location import module_path, spelled_operation

_NEED_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
_TORCHS = ("torch.", "_operator.", "builtins.")
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, ArithmeticError, AssertionError)


class ShapeError(TraceError):
    """A node cannot be evaluated on the shapes of its inputs."""

    def __init__(self, what: str, node: fx.Node) -> None:
        super().__init__(what, where=module_path(node) or "the model")
        self.node = node


class FakeExecution(fx.Interpreter):
    """Evaluates nodes of a graph in eval mode with fake tensors, each at most once.

    Leaf modules are copied, without their data, and the copies are run: the modules of the model are not touched.

    Args:
        root: The module in which the graph's targets lie; a GraphModule, or a model that is just being traced.
        graph: The graph; that of `root` if left out.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph | None = None) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.device = device_of(root)
        self.copies: dict[str, nn.Module] = {}
        self.guessed: set[fx.Node] = set()  # numbers, or shapes, that follow from values and not from shapes
        self.memo: dict[int, Any] = {}

    def set_input(self, node: fx.Node, value: Any) -> None:
        """Give a placeholder the shapes of `value`, in place of those that it carries."""
        self.env[node] = mapped(value, self._fake)

    def compute(self, node: fx.Node) -> Any:
        """Evaluate `node` on the values of its inputs, which were computed before or carry metadata.

        Raises:
            ShapeError: If it cannot be evaluated.
        """
        if node in self.env:
            return self.env[node]
        if node.op == "placeholder":
            self.env[node] = self._materialise(input_metadata(node))
        elif node.op == "output":
            self.env[node] = fx.map_arg(node.args[0], self._value)
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
            try:
                with _quiet(), torch.inference_mode(False), torch.enable_grad(), self.fake_mode, self._around_node():
                    self.env[node] = self._run(node, args, kwargs)
            except _ERRORS as error:
                what = f"{spelled_operation(node)} fails on the shapes of its inputs: {first_line(error)}"
                raise ShapeError(what, node) from error
        return self.env[node]

    @contextmanager
    def _around_node(self) -> Iterator[None]:
        """Surround the evaluation of a node; for subclasses."""
        yield

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        try:
            return getattr(self, node.op)(node.target, args, kwargs)
        except _NEED_DATA as error:
            result = self._run_on_data(node, args, kwargs)
            if isinstance(error, DynamicOutputShapeException) or not isinstance(result, Tensor):
                self.guessed.add(node)
            return result
        except _ERRORS:
            if not self._is_foreign(node):
                raise
            return self._run_on_data(node, args, kwargs)  # it may take plain tensors only

    def _is_foreign(self, node: fx.Node) -> bool:
        """Say whether a node calls code that is not of torch."""
        if node.op == "call_module":
            return is_foreign(self.module.get_submodule(str(node.target)))
        return node.op == "call_function" and not qualified_name(node.target).startswith(_TORCHS)

    def _run_on_data(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Evaluate a node whose shapes or control flow depend on values, on ones in place of its inputs."""
        with unset_fake_temporarily(), preserved_randomness():
            args, kwargs = mapped((args, kwargs), _ones)
            if node.op == "call_module":
                module = copy.deepcopy(self.module.get_submodule(str(node.target)))
                module.eval()
                result = module(*args, **kwargs)
            else:
                result = getattr(fx.Interpreter, node.op)(self, node.target, args, kwargs)
            result = mapped(result, _leaf)
        return mapped(result, self._fake)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a copy of the module at `target` that holds fake tensors."""
        module = self._copy(target)
        with preserved_randomness() if is_foreign(module) else nullcontext():
            return module(*args, **kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a fake tensor in place of the parameter, buffer or constant at `target`."""
        return self._fake(fetch_attribute(self.module, target))

    def _copy(self, path: str) -> nn.Module:
        if path not in self.copies:
            module = self.module.get_submodule(path)
            for tensor in (*module.parameters(), *module.buffers()):
                self.memo[id(tensor)] = self._fake(tensor)
            with FakeCopyMode(self.fake_mode):
                self.copies[path] = copy.deepcopy(module, self.memo)
            self.copies[path].eval()
        return self.copies[path]

    def _value(self, node: fx.Node) -> Any:
        if node not in self.env:
            self.env[node] = self._materialise(node.meta["tensor_meta"])
        return self.env[node]

    def _fake(self, value: Any) -> Any:
        return self.fake_mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value

    def _materialise(self, metadata: Any) -> Any:
        def build(meta: Any) -> Any:
            if not isinstance(meta, TensorMetadata):
                return meta
            with self.fake_mode:
                return torch.empty_strided(
                    meta.shape, meta.stride, dtype=meta.dtype, device=self.device
                ).requires_grad_(meta.requires_grad)

        return mapped(metadata, build)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging an error that is raised too, and that may be no error of the user's."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def is_foreign(module: nn.Module) -> bool:
    """Say whether a module is none of torch.nn, so that its forward may do anything."""
    return not type(module).__module__.startswith("torch.nn.")


def _ones(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.ones(value.shape, dtype=value.dtype, device=value.device)


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
