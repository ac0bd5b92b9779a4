"""The structure of a part of a graph, apart from weights, names, dropout rates and where it stands."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.primitives.modules import fetch_attribute, qualified_name

#: by name, as timm and torchvision have stochastic depth each of their own; where the rate is zero some leave it out
_DROPPING = {
    "Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath", "StochasticDepth",
    "ModeValue",
}  # fmt: skip


def structure_of(graph_module: fx.GraphModule, nodes: Sequence[fx.Node], entry: fx.Node) -> tuple[Any, ...]:
    """Return what two parts of a graph have in common where one can take over the weights of the other.

    Nodes count in order, by operation, arguments and the classes, options and shapes of what they call. Values from
    outside count by identity, but for the one that enters.
    """
    names: dict[fx.Node, str] = {entry: "entry"} | {node: f"%{index}" for index, node in enumerate(nodes)}
    known: dict[int, int] = {}  # a module that is called twice is another structure than two modules
    return tuple(
        (node.op, _target(graph_module, node, known), _spell(node.args, names), _spell(node.kwargs, names))
        for node in nodes
    )


def _target(graph_module: fx.GraphModule, node: fx.Node, known: dict[int, int]) -> str:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return f"{_describe_module(module)} {known.setdefault(id(module), len(known))}"
    if node.op == "get_attr":
        value = fetch_attribute(graph_module, str(node.target))
        return f"{_describe(value)} {known.setdefault(id(value), len(known))}"
    return str(node.target) if isinstance(node.target, str) else qualified_name(node.target)


def _describe_module(module: nn.Module) -> str:
    if type(module).__name__ in _DROPPING and not module.state_dict():
        return "dropout"
    inner = [f"{name}: {type(child).__qualname__}({child.extra_repr()})" for name, child in module.named_modules()]
    tensors = [(name, _describe(value)) for name, value in [*module.named_parameters(), *module.named_buffers()]]
    return f"{inner} {tensors}"


def _describe(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    kind = "parameter" if isinstance(value, nn.Parameter) else "buffer"
    return f"{kind} {tuple(value.shape)} {value.dtype}"


def _spell(value: Any, names: dict[fx.Node, str]) -> str:
    """Spell arguments with nodes by their place in the part."""
    return repr(fx.map_arg(value, lambda node: _Name(names.get(node, node.name))))


class _Name(str):
    """A node's name, told apart from a string argument."""

    def __repr__(self) -> str:
        return str(self)
