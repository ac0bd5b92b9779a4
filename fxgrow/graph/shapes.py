"""Shapes and FLOPs of every node, found with fake tensors: nothing is computed and no state of the model moves.

The shapes are those of torch.fx's ShapeProp: ``node.meta["tensor_meta"]`` holds a TensorMetadata, or a structure of
them, and ``node.meta["type"]`` the type of the value. ShapeProp itself runs the model, which moves BatchNorm
statistics, and copies all of it before it can run with fake tensors; here each leaf module is copied once and without
data.
"""

import copy
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
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from fxgrow.errors import TraceError
from fxgrow.graph.annotations import annotate
from fxgrow.graph.digest import fetch_attribute
from fxgrow.graph.inputs import bind_placeholders, device_of, input_metadata, map_metadata
from fxgrow.graph.inputs import example_inputs_of as example_inputs_of
from fxgrow.graph.location import first_line, module_path
from fxgrow.graph.randomness import preserved_randomness

_aten = torch.ops.aten
_NEED_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


def propagate_shapes(graph_module: fx.GraphModule, example_inputs: Any = None) -> None:
    """Write shapes and FLOPs on every node of `graph_module`, as they are in eval mode.

    Args:
        graph_module: Changed in its nodes' ``meta`` only.
        example_inputs: A tensor, a tuple of positional or a dict of keyword inputs, of which the shapes count; without
            them the shapes that the placeholders carry.

    Raises:
        TraceError: Where a node cannot be evaluated on such inputs, or no inputs are known.
    """
    inputs = None if example_inputs is None else bind_placeholders(graph_module, example_inputs)
    with _Evaluator(graph_module) as evaluator:
        for node in graph_module.graph.nodes:
            if node.op == "placeholder" and inputs is not None:
                evaluator.set_input(node, inputs[node])
            else:
                evaluator.evaluate(node)


def complete_shapes(graph_module: fx.GraphModule) -> None:
    """Write shapes and FLOPs on the nodes that have none, as after an insertion, and look at no others.

    Raises:
        TraceError: Where a node cannot be evaluated, or a placeholder has no shape.
    """
    needed: set[fx.Node] = set()
    for node in reversed(graph_module.graph.nodes):
        if not has_shape(node):
            needed.add(node)
        if node in needed:  # sizes and other plain values are not kept in meta: evaluate them again
            needed.update(value for value in node.all_input_nodes if "tensor_meta" not in value.meta)
    if not needed:
        return
    with _Evaluator(graph_module) as evaluator:
        for node in graph_module.graph.nodes:
            if node in needed:
                evaluator.evaluate(node)


def has_shape(node: fx.Node) -> bool:
    """Say whether shapes were propagated through `node`."""
    return "tensor_meta" in node.meta or "type" in node.meta


class ShapeError(TraceError):
    """A node cannot be evaluated on the shapes of its inputs."""

    def __init__(self, what: str, node: fx.Node) -> None:
        super().__init__(what, where=module_path(node) or "the model")
        self.node = node


class _FlopCounter(TorchDispatchMode):
    """Counts FLOPs as torch.utils.flop_counter does, without its hooks on every module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", None)
        if packet is _aten._scaled_dot_product_flash_attention_for_cpu:  # torch has no formula for the CPU's kernel
            self.total += sdpa_flop_count(*(value.shape for value in args[:3]))  # type: ignore[no-untyped-call]
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        return result


class _Evaluator(fx.Interpreter):
    """Evaluates single nodes with fake tensors and writes what comes out on them."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.counter = _FlopCounter()
        self.device = device_of(graph_module)
        self.copies: dict[str, nn.Module] = {}
        self.memo: dict[int, Any] = {}
        self.randomness = preserved_randomness()

    def __enter__(self) -> "_Evaluator":
        self.randomness.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.randomness.__exit__(*raised)

    def set_input(self, node: fx.Node, value: Any) -> None:
        self.env[node] = map_aggregate(value, self._fake)
        self._write(node, 0)
        integers = [t for t in _tensors(value) if not t.is_floating_point() and t.dtype != torch.bool and t.numel()]
        bounds = [min(int(t.min()) for t in integers), max(int(t.max()) for t in integers)] if integers else None
        annotate(node, integers=bounds)

    def evaluate(self, node: fx.Node) -> None:
        if node.op == "output":
            self.env[node] = fx.map_arg(node.args[0], self._value)
            self._write(node, 0)
            return
        if node.op == "placeholder":
            self.env[node] = self._materialise(input_metadata(node))
            self._write(node, 0)
            return
        before = self.counter.total
        args, kwargs = fx.map_arg(node.args, self._value), fx.map_arg(node.kwargs, self._value)
        try:
            with torch.inference_mode(False), torch.enable_grad(), self.fake_mode, self.counter:
                self.env[node] = self._run(node, args, kwargs)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            AttributeError,
            KeyError,
            NotImplementedError,
        ) as error:
            what = f"{node.format_node()} fails on the shapes of its inputs: {first_line(error)}"
            raise ShapeError(what, node) from error
        self._write(node, self.counter.total - before)

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        try:
            return getattr(self, node.op)(node.target, args, kwargs)
        except _NEED_DATA:
            return self._run_on_data(node, args, kwargs)

    def _run_on_data(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Evaluate a node whose shapes or control flow depend on values, on ones in place of its inputs."""
        with unset_fake_temporarily():
            args, kwargs = map_aggregate((args, kwargs), _ones)
            if node.op == "call_module":
                module = copy.deepcopy(self.module.get_submodule(str(node.target)))
                module.eval()
                result = module(*args, **kwargs)
            else:
                result = getattr(fx.Interpreter, node.op)(self, node.target, args, kwargs)
            result = map_aggregate(result, _leaf)
        return map_aggregate(result, self._fake)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a copy of the module at `target` that holds fake tensors."""
        return self._copy(target)(*args, **kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a fake tensor in place of the parameter, buffer or constant at `target`."""
        return self._fake(fetch_attribute(self.module, target))

    def _copy(self, path: str) -> nn.Module:
        if path not in self.copies:
            with FakeCopyMode(self.fake_mode):
                self.copies[path] = copy.deepcopy(self.module.get_submodule(path), self.memo)
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

        return map_metadata(metadata, build)

    def _write(self, node: fx.Node, flops: int) -> None:
        value = self.env[node]
        node.meta["type"] = Tensor if isinstance(value, Tensor) else type(value)
        node.meta.pop("tensor_meta", None)
        if _tensors(value):
            node.meta["tensor_meta"] = map_aggregate(
                value, lambda item: _extract_tensor_metadata(item) if isinstance(item, Tensor) else item
            )
        if node.op in ("call_module", "call_function", "call_method"):
            annotate(node, flops=flops)


def _ones(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.ones(value.shape, dtype=value.dtype, device=value.device)


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_aggregate(value, lambda item: found.append(item) if isinstance(item, Tensor) else None)
    return found
