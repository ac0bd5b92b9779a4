"""A digest of a GraphModule's structure: equal digests mean the same computation up to the values of the weights."""

import hashlib
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.primitives.modules import fetch_attribute, qualified_name
from fxgrow.record.facts import kept


@kept()
def digest(graph_module: fx.GraphModule) -> str:
    """Return 16 hexadecimal digits that identify the structure of `graph_module`.

    Nodes count by position, operation, target and arguments; modules by class and ``extra_repr``; their parameters
    and persistent buffers by shape and dtype. Values of tensors, train/eval mode, node names and ``meta`` do not
    count: they change when a model trains, is copied or is annotated. Nor do a module's buffers that no state dict
    holds: models keep there what they computed for the last input.
    """
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    hasher = hashlib.sha256()
    for node in graph_module.graph.nodes:
        line = (
            node.op,
            _target(graph_module, node),
            _spell(node.args, position),
            _spell(node.kwargs, position),
        )
        hasher.update(repr(line).encode())
    return hasher.hexdigest()[:16]


def _target(graph_module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} = {_describe_module(graph_module.get_submodule(str(node.target)))}"
    if node.op == "get_attr":
        return f"{node.target} = {_describe_value(fetch_attribute(graph_module, str(node.target)))}"
    if node.op == "call_function":
        return qualified_name(node.target)
    return str(node.target) if node.op == "call_method" else ""


def _describe_module(module: nn.Module) -> str:
    kind = type(module)
    lasting = [(name, buffer) for name, buffer in module.named_buffers() if _is_persistent(module, name)]
    tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in [*module.named_parameters(), *lasting]]
    inner = [f"{name}: {type(child).__qualname__}({child.extra_repr()})" for name, child in module.named_modules()]
    return f"{kind.__module__}.{kind.__qualname__} {inner} {tensors}"


def _is_persistent(module: nn.Module, buffer: str) -> bool:
    path, _, name = buffer.rpartition(".")
    owner = dict(module.named_modules())[path]  # get_submodule is no method of scripted modules
    return name not in owner._non_persistent_buffers_set


def _describe_value(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__qualname__


def _spell(value: Any, position: dict[fx.Node, int]) -> str:
    """Spell an argument with nodes by position, so that renaming a node changes nothing."""
    if isinstance(value, fx.Node):
        return f"%{position[value]}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_spell(item, position) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_spell(item, position)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return f"slice({_spell([value.start, value.stop, value.step], position)})"
    if isinstance(value, torch.Tensor):
        return _describe_value(value)
    return qualified_name(value) if callable(value) else repr(value)
