"""Equal descriptions for nodes that do the same, so that what was found out about one is known of the other."""

from collections.abc import Hashable, Mapping
from typing import Any
from weakref import ref

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.execution.inputs import device_of
from fxgrow.execution.shapes import is_plain
from fxgrow.execution.structures import parts_of
from fxgrow.primitives.modules import fetch_attribute

_PLAIN = (bool, int, float, complex, str, bytes, type(None),
          torch.dtype, torch.device, torch.layout, torch.memory_format)  # fmt: skip


class Descriptions:
    """Descriptions of the nodes of one graph."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.device = device_of(graph_module).type
        self._plain: dict[fx.Node, Hashable] = {}

    def of(self, node: fx.Node) -> Hashable | None:
        """Return the description of `node` and of what it reads; None where a shape is not known."""
        described: list[Hashable] = []
        for value in node.all_input_nodes:
            known = self._value(value)
            if known is None:
                return None
            described.append(known)
        return self.device, self._call(node), tuple(described)

    def _value(self, node: fx.Node) -> Hashable | None:
        """Describe a value: a tensor by its layout, a size or a flag by how it comes about."""
        if "tensor_meta" in node.meta:
            return _layout(node.meta["tensor_meta"])
        if node.op == "get_attr":
            value = fetch_attribute(self.graph_module, str(node.target))
            return (tuple(value.shape), value.dtype, value.stride()) if isinstance(value, Tensor) else _object(value)
        if node.op == "placeholder":
            return ("default", _spelled(node.args[0], {})) if node.args else None
        return self._computed(node) if "type" in node.meta else None

    def _computed(self, node: fx.Node) -> Hashable | None:
        """Describe a value that is no tensor, and before it those that it is computed from."""
        pending, needed = [node], {node}
        while pending:  # each node is put in once
            sources = set(pending.pop().all_input_nodes) - needed
            plain = {value for value in sources if value not in self._plain and is_plain(value)}
            needed |= plain
            pending.extend(plain)
        for value in sorted(needed):
            inputs = tuple(
                self._plain[source] if is_plain(source) else self._value(source) for source in value.all_input_nodes
            )
            self._plain[value] = None if None in inputs else _number((self._call(value), inputs))
        return self._plain[node]

    def _call(self, node: fx.Node) -> Hashable:
        """Describe what a node calls, and its arguments with its inputs by place."""
        place = {value: index for index, value in enumerate(node.all_input_nodes)}
        target: Hashable = node.target
        if node.op == "call_module":
            target = described(self.graph_module.get_submodule(str(node.target)))
        elif node.op == "call_function":
            target = _object(node.target)
        return node.op, target, _spelled(node.args, place), _spelled(node.kwargs, place)


_NUMBERS: dict[Hashable, int] = {}


def _number(description: Hashable) -> int:
    """Name a description by a number: sizes are computed from sizes, and descriptions of descriptions would explode."""
    return _NUMBERS.setdefault(description, len(_NUMBERS))


def _layout(metadata: Any) -> Hashable:
    if isinstance(metadata, TensorMetadata):
        return tuple(metadata.shape), metadata.dtype, metadata.stride
    parts = parts_of(metadata)
    if parts is not None:
        return type(metadata).__name__, tuple((key, _layout(value)) for key, value in parts.items())
    return _spelled(metadata, {})


def _spelled(value: Any, place: Mapping[fx.Node, int]) -> Hashable:
    if isinstance(value, fx.Node):
        return "input", place[value]
    if isinstance(value, Mapping):
        return "dict", tuple((key, _spelled(item, place)) for key, item in value.items())
    if isinstance(value, slice):
        return "slice", _spelled((value.start, value.stop, value.step), place)
    if isinstance(value, tuple | list | set):
        return type(value).__name__, tuple(_spelled(item, place) for item in value)
    return (type(value).__name__, value) if isinstance(value, _PLAIN) else _object(value)


def described(module: nn.Module) -> Hashable:
    """Describe a module by its class and its plain attributes; one that has others is only like itself."""
    parts: list[Hashable] = []
    for path, inner in module.named_modules():
        parts += (path, ref(type(inner)))
        for name, value in vars(inner).items():
            if name in ("_parameters", "_buffers"):
                parts.append(tuple((key, _tensor(tensor)) for key, tensor in value.items()))
            elif name not in ("training", "_modules"):
                if not _is_plain(value):
                    return ref(module)
                parts += (name, _spelled(value, {}))
    return tuple(parts)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (isinstance(value, dict | set) and not value)


def _tensor(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _object(value: Any) -> Hashable:
    """Name an object by itself, without keeping it alive where that can be."""
    try:
        return ref(value)
    except TypeError:
        return value if isinstance(value, Hashable) else id(value)
