"""Shapes and FLOPs of every node, found with fake tensors: nothing is computed and no state of the model moves.

The shapes are those of torch.fx's ShapeProp: ``node.meta["tensor_meta"]`` holds a TensorMetadata, or a structure of
them, and ``node.meta["type"]`` the type of the value. ShapeProp itself runs the model, which moves BatchNorm
statistics, and copies all of it before it can run with fake tensors; here each leaf module is copied once and without
data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from fxgrow.execution.calling import bind_placeholders
from fxgrow.execution.fake_execution import FakeExecution
from fxgrow.execution.fake_execution import ShapeError as ShapeError
from fxgrow.execution.inputs import example_inputs_of as example_inputs_of
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.structures import flatten, holds_tensor, mapped
from fxgrow.record.annotations import annotate, annotation

_aten = torch.ops.aten


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
    execution = _AnnotatingExecution(graph_module)
    with preserved_randomness():
        for node in graph_module.graph.nodes:
            if node.op == "placeholder" and inputs is not None:
                execution.set_input(node, inputs[node])
                annotate(node, integers=_integer_bounds(inputs[node]))
            execution.annotate(node)


def complete_shapes(graph_module: fx.GraphModule) -> None:
    """Write shapes and FLOPs on the nodes that have none, as after an insertion, and look at no others.

    Where the shapes of the inputs are not known, none are invented.

    Raises:
        TraceError: Where a node cannot be evaluated.
    """
    if not all(has_shape(node) or node.args for node in graph_module.graph.find_nodes(op="placeholder")):
        return
    needed: set[fx.Node] = set()
    for node in reversed(graph_module.graph.nodes):
        if not has_shape(node):
            needed.add(node)
        if node in needed:  # sizes and other plain values are not kept in meta: evaluate them again
            needed.update(value for value in node.all_input_nodes if "tensor_meta" not in value.meta)
    if not needed:
        return
    execution = _AnnotatingExecution(graph_module)
    with preserved_randomness():
        for node in graph_module.graph.nodes:
            if node in needed:
                execution.annotate(node)


def has_shape(node: fx.Node) -> bool:
    """Say whether shapes were propagated through `node`."""
    return "tensor_meta" in node.meta or "type" in node.meta


def is_plain(node: fx.Node) -> bool:
    """Say whether a node is known to compute something that holds no tensor, as a size or a flag."""
    return node.op.startswith("call") and "tensor_meta" not in node.meta and "type" in node.meta


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


class _AnnotatingExecution(FakeExecution):
    """Writes on each node what comes out of it, and what it costs."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.counter = _FlopCounter()

    @contextmanager
    def _around_node(self) -> Iterator[None]:
        with self.counter:
            yield

    def annotate(self, node: fx.Node) -> None:
        before = self.counter.total
        value = self.compute(node)
        node.meta["type"] = Tensor if isinstance(value, Tensor) else type(value)
        node.meta.pop("tensor_meta", None)
        if holds_tensor(value):
            node.meta["tensor_meta"] = mapped(
                value, lambda item: _extract_tensor_metadata(item) if isinstance(item, Tensor) else item
            )
        if node.op in ("call_module", "call_function", "call_method"):
            annotate(node, flops=self.counter.total - before)


def _integer_bounds(value: object) -> list[int] | None:
    """Return the least and the greatest number in the integer tensors of `value`."""
    integers = [t for _, t in flatten(value) if not t.is_floating_point() and t.dtype != torch.bool and t.numel()]
    return [min(int(t.min()) for t in integers), max(int(t.max()) for t in integers)] if integers else None


def flops_per_sample(graph_module: fx.GraphModule) -> int:
    """Return the FLOPs of a forward pass for one sample, as the nodes carry them; 0 without shapes."""
    placeholders = [node.meta.get("tensor_meta") for node in graph_module.graph.find_nodes(op="placeholder")]
    batch = next((int(meta.shape[0]) for meta in placeholders if len(getattr(meta, "shape", ()))), 1)
    return sum(annotation(node).get("flops", 0) for node in graph_module.graph.nodes) // batch
