"""Modules and attributes by their dotted paths."""

import copy
from typing import Any

import torch.fx as fx
from torch import Tensor, nn


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


def find_submodule(module: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path; None where there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def clone_module(module: nn.Module) -> nn.Module:
    """Return a module of its own with the same tensors."""
    clone = copy.copy(module)
    clone._parameters, clone._buffers = dict(module._parameters), dict(module._buffers)
    return clone


def replace_parameter(graph_module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Put a new parameter in the place of one; graphs that share its module keep the old one."""
    path, _, local = name.rpartition(".")
    owner = graph_module.get_submodule(path)
    old = owner._parameters[local]
    if type(owner) is not nn.Module and owner is not graph_module:  # torch.fx makes containers anew for each graph
        parent, _, own = path.rpartition(".")
        owner = graph_module.get_submodule(parent)._modules[own] = clone_module(owner)
    owner._parameters[local] = nn.Parameter(value, requires_grad=old is None or old.requires_grad)
