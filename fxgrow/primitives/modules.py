"""Modules and attributes by their dotted paths."""

from typing import Any

import torch.fx as fx
from torch import nn


def fetch_attribute(module: nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path, as a get_attr node names it."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def resolves(module: nn.Module, path: str) -> bool:
    """Say whether something lies at a dotted path."""
    here: object = module
    for part in path.split("."):
        if not hasattr(here, part):
            return False
        here = getattr(here, part)
    return True


def fresh_path(graph_module: fx.GraphModule, stem: str) -> str:
    """Return the first of ``stem_0``, ``stem_1``, … at which nothing lies."""
    index = 0
    while resolves(graph_module, f"{stem}_{index}"):
        index += 1
    return f"{stem}_{index}"


def add_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Attach `module` at a dotted path that nothing uses yet, creating containers on the way."""
    *containers, name = path.split(".")
    parent: nn.Module = graph_module
    for container in containers:
        if not hasattr(parent, container):
            parent.add_module(container, nn.Module())
        parent = parent.get_submodule(container)
    if hasattr(parent, name):
        raise ValueError(f"{path} is taken")
    parent.add_module(name, module)


def parameter_count(module: nn.Module) -> int:
    """Return the number of scalars in the parameters of `module`, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def qualified_name(target: Any) -> str:
    """Return the importable name of a callable, as in ``torch.nn.functional.gelu``."""
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or str(target)
    return f"{getattr(target, '__module__', None) or type(target).__module__}.{name}"
