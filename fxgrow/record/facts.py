"""Facts about a graph: found when they are first asked for, and kept with it as long as its structure is the same."""

from collections.abc import Callable
from functools import wraps
from operator import is_
from typing import Any, TypeVar

import torch
import torch.fx as fx
from torch import nn

from fxgrow.primitives.modules import fetch_attribute
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.annotations import annotation

Fact = TypeVar("Fact")
Finder = Callable[[fx.GraphModule], Fact]

_HOME = "_fxgrow_facts"


def kept(*, notes: bool = False) -> Callable[[Finder[Fact]], Callable[[nn.Module], Fact]]:
    """Let a function of a graph be computed once for it, until the graph is edited; the result must not be changed.

    The graph may be given in whatever training wraps around it.

    Structure is what the nodes call, with which arguments, and the modules, plain attributes, parameters and buffers
    that they call it on. The numbers in tensors and the train/eval mode are none of it.

    Args:
        notes: Whether the result also depends on what is written on the nodes: shapes and provenance.

    Example:
        >>> @kept()
        ... def size(graph_module):
        ...     return len(graph_module.graph.nodes)
    """

    def decorate(find: Finder[Fact]) -> Callable[[nn.Module], Fact]:
        @wraps(find)
        def fact(model: nn.Module) -> Fact:
            graph_module = unwrap(model)
            known = _facts(graph_module, notes)
            if find not in known:
                known[find] = find(graph_module)
            found: Fact = known[find]
            return found

        return fact

    return decorate


def _facts(graph_module: fx.GraphModule, notes: bool) -> dict[Finder[Any], Any]:
    """Return what is known of the present state of a graph.

    It lies on the fx.Graph, whose copies and pickles leave out what torch.fx does not know.
    """
    homes: dict[bool, tuple[_State, dict[Finder[Any], Any]]] = graph_module.graph.__dict__.setdefault(_HOME, {})
    state = _State(graph_module, notes)
    if notes not in homes or not state.equals(homes[notes][0]):
        homes[notes] = state, {}
    return homes[notes][1]


class _State:
    """All objects that make up the structure of a graph. They are compared by identity, which takes no time."""

    def __init__(self, graph_module: fx.GraphModule, notes: bool) -> None:
        self.objects: list[object] = []
        self.layouts: list[tuple[torch.Size, torch.dtype]] = []  # of tensors, which `.to` changes in their place
        called: set[object] = set()
        for node in graph_module.graph.nodes:
            self.objects += (node, node.target, node.args, node.kwargs)
            if notes:
                meta = node.meta
                self.objects += (meta.get("tensor_meta"), meta.get("type"), annotation(node).get("provenance"))
            if node.op == "call_module" and node.target not in called:
                called.add(node.target)
                self._add_module(_submodule(graph_module, str(node.target)))
            elif node.op == "get_attr":
                self._add_tensor(fetch_attribute(graph_module, str(node.target)))

    def equals(self, other: "_State") -> bool:
        return (
            len(self.objects) == len(other.objects)
            and all(map(is_, self.objects, other.objects))
            and self.layouts == other.layouts
        )

    def _add_module(self, module: nn.Module) -> None:
        self.objects += (type(module), *{**vars(module), "training": None}.values())
        for value in (*module._parameters.values(), *module._buffers.values()):
            self._add_tensor(value)
        for child in module._modules.values():
            if child is not None:
                self._add_module(child)

    def _add_tensor(self, value: object) -> None:
        self.objects.append(value)
        if isinstance(value, torch.Tensor):
            self.layouts.append((value.shape, value.dtype))


def _submodule(root: nn.Module, path: str) -> nn.Module:
    """Return ``root.get_submodule(path)``, in a tenth of the time."""
    module: nn.Module | None = root
    for part in path.split("."):
        module = module._modules.get(part) if module is not None else None
    return module if module is not None else root.get_submodule(path)
