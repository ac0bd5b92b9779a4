"""Running single nodes of a graph with fake tensors: shapes and dtypes without data."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import TraceError, first_line
from fxgrow.execution.inputs import device_of, input_metadata
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.snapshot import Snapshot
from fxgrow.execution.structures import holds_tensor, mapped
from fxgrow.primitives.modules import fetch_attribute, qualified_name
from fxgrow.record.annotations import annotate, annotation
from fxgrow.record.location import module_path, spelled_operation

_NEED_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
_SMALL = 256  #: integer inputs of so many numbers at most are looked into where shapes depend on values
_TORCHS = ("torch.", "_operator.", "builtins.")
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, ArithmeticError, AssertionError)
#: Lends the module at a path for the length of a block.
Borrowed = Callable[[str], AbstractContextManager[nn.Module]]


class ShapeError(TraceError):
    """A node cannot be evaluated on the shapes of its inputs."""

    def __init__(self, what: str, node: fx.Node) -> None:
        fix = "give inputs of the shapes and dtypes that the model takes"
        super().__init__(what, where=module_path(node) or "the model", fix=fix)
        self.node = node


class FakeExecution(fx.Interpreter):
    """Evaluates nodes of a graph with fake tensors, each at most once.

    Leaf modules run with fake tensors in the place of theirs, and are as they were afterwards.

    Args:
        root: The module in which the graph's targets lie; a GraphModule, or a model that is just being traced.
        graph: The graph; that of `root` if left out.
        training: Whether modules run in train mode, and not in eval mode.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph | None = None, *, training: bool = False) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.training = training
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.device = device_of(root)
        self._given: dict[fx.Node, Tensor] = {}
        self.guessed: set[fx.Node] = set()  # numbers, or shapes, that follow from values and not from shapes

    def set_input(self, node: fx.Node, value: Any) -> None:
        """Give a placeholder the shapes of `value`, in place of those that it carries."""
        self.env[node] = mapped(value, self._fake)
        if isinstance(value, Tensor) and not value.is_floating_point() and value.numel() <= _SMALL:
            self._given[node] = value

    def held(self, node: fx.Node) -> Any:
        """Return what `node` holds where that follows from small integer inputs alone, as the lengths of a batch.

        The inputs are noted on their placeholders: whoever runs the graph on shapes later must know them too.

        Returns:
            The value; None where it follows from anything else.
        """
        found: dict[fx.Node, Any] = {}
        for value in sorted(ancestors(node)):  # each once, and none before what it is computed from
            found[value] = self._held(value, found)
            if found[value] is None:
                return None
        return found[node]

    def _held(self, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
        if node in self.env and not holds_tensor(self.env[node]):
            return self.env[node]
        if node.op == "placeholder":
            return self._given_to(node)
        if node.op not in ("call_function", "call_method"):
            return None
        with unset_fake_temporarily(), self._steady(node):
            return self._evaluate(node, known, self._borrowed)

    def _given_to(self, node: fx.Node) -> Tensor | None:
        known = annotation(node).get("values")
        if node not in self._given and known is not None and node in self.env:
            self._given[node] = torch.tensor(known, dtype=self.env[node].dtype)
        value = self._given.get(node)
        if value is not None and known is None:
            annotate(node, values=value.tolist())
        return value

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
            self.env[node] = fx.map_arg(node.args[0], self.value)
        else:
            inputs = {value: self.value(value) for value in node.all_input_nodes}
            try:
                with _quiet(), torch.inference_mode(False), torch.enable_grad(), self.fake_mode, self._around_node():
                    self.env[node] = self._run(node, inputs)
            except _ERRORS as error:
                what = f"{spelled_operation(node)} fails on the shapes of its inputs: {first_line(error)}"
                raise ShapeError(what, node) from error
        return self.env[node]

    def compute_with_inputs(self, node: fx.Node) -> Any:
        """Evaluate `node`, and before it what it is computed from, back to values that are known.

        Raises:
            ShapeError: If one of them cannot be evaluated.
        """
        needed, pending = {node}, [node]
        while pending:  # each node is put in once
            sources = set(pending.pop().all_input_nodes)
            unknown = {value for value in sources - needed if value not in self.env and "tensor_meta" not in value.meta}
            needed |= unknown
            pending.extend(unknown)
        for value in sorted(needed):
            self.compute(value)
        return self.env[node]

    @contextmanager
    def _around_node(self) -> Iterator[None]:
        """Surround the evaluation of a node; for subclasses."""
        yield

    def _run(self, node: fx.Node, inputs: Mapping[fx.Node, Any]) -> Any:
        try:
            with self._steady(node) if self._is_foreign(node) else nullcontext():
                return self._evaluate(node, inputs, self._borrowed_fake)
        except _NEED_DATA as error:
            result = self._run_on_data(node, inputs)
            if isinstance(error, DynamicOutputShapeException) or not isinstance(result, Tensor):
                self.guessed.add(node)
            return result
        except _ERRORS:
            if not self._is_foreign(node):
                raise
            return self._run_on_data(node, inputs)  # it may take plain tensors only

    def _is_foreign(self, node: fx.Node) -> bool:
        """Say whether a node calls code that is not of torch."""
        if node.op == "call_module":
            return is_foreign(self.module.get_submodule(str(node.target)))
        return node.op == "call_function" and not qualified_name(node.target).startswith(_TORCHS)

    def _run_on_data(self, node: fx.Node, inputs: Mapping[fx.Node, Any]) -> Any:
        """Evaluate a node whose shapes or control flow depend on values, on ones where they are not known."""
        with unset_fake_temporarily(), self._steady(node):
            found = {value: self.held(value) for value in inputs}
            data = {value: mapped(inputs[value], _ones) if held is None else held for value, held in found.items()}
            result = mapped(self._evaluate(node, data, self._borrowed), _leaf)
        return mapped(result, self._fake)

    def _evaluate(self, node: fx.Node, inputs: Mapping[fx.Node, Any], borrowed: Borrowed) -> Any:
        """Evaluate `node` on values of its inputs, with its module from `borrowed`; for subclasses to watch."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), inputs.__getitem__)
        if node.op == "call_module":
            with borrowed(str(node.target)) as module:
                return module(*args, **kwargs)
        return getattr(self, node.op)(node.target, args, kwargs)

    def _steady(self, node: fx.Node) -> AbstractContextManager[None]:
        """Put the random state back after code that is not of torch, or that runs on data; for subclasses."""
        return preserved_randomness()

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a fake tensor in place of the parameter, buffer or constant at `target`."""
        return self._fake(fetch_attribute(self.module, target))

    @contextmanager
    def _borrowed(self, path: str, *, fake: bool = False) -> Iterator[nn.Module]:
        """Lend the module at `path` in the mode of this execution; it is as it was when the block ends.

        Fake tensors take the place of its own before the mode is set: a module may write to its weights in ``train()``.
        """
        module = self.module.get_submodule(path)
        snapshot = Snapshot((module,), values=not fake)
        try:
            for part in module.modules() if fake else ():
                part._parameters.update({name: self._fake(value) for name, value in part._parameters.items()})
                part._buffers.update({name: self._fake(value) for name, value in part._buffers.items()})
            yield module.train(self.training)
        finally:
            snapshot.restore()

    @contextmanager
    def _borrowed_fake(self, path: str) -> Iterator[nn.Module]:
        """Lend the module at `path` with fake tensors in the place of its own."""
        if any(isinstance(part, torch.jit.ScriptModule) for part in self.module.get_submodule(path).modules()):
            raise UnsupportedFakeTensorException("torch.jit keeps its tensors outside Python")
        with self._borrowed(path, fake=True) as module:
            yield module

    def value(self, node: fx.Node) -> Any:
        """Return the value of a node that was computed before, or that its metadata describes."""
        if node not in self.env:
            leaves = self._materialise(node.meta["tensor_meta"])
            with torch.inference_mode(False), torch.enable_grad(), self.fake_mode:
                self.env[node] = mapped(leaves, _computed)
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


def ancestors(node: fx.Node, known: Collection[fx.Node] = ()) -> set[fx.Node]:
    """Return a node and all that its value follows from, up to nodes that are `known`."""
    found, pending = {node}, [node]
    while pending:  # each node is put in once
        sources = {value for value in pending.pop().all_input_nodes if value not in known} - found
        found |= sources
        pending.extend(sources)
    return found


def is_foreign(module: nn.Module) -> bool:
    """Say whether a module is none of torch.nn, so that its forward may do anything."""
    return not type(module).__module__.startswith("torch.nn.")


def _ones(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.ones(value.shape, dtype=value.dtype, device=value.device)


def _computed(value: Any) -> Any:
    """Return a leaf as if it were computed from others: what requires grad may then be written to in place."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    copied = value.clone()
    return copied if copied.stride() == value.stride() else value


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
