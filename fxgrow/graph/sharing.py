"""Copies of a GraphModule that share its parameters, and small edits on them."""

import copy

import torch.fx as fx
from torch import nn

from fxgrow.graph.annotations import KEY
from fxgrow.graph.record import record_of
from fxgrow.graph.state import adopt_state


def share(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a GraphModule with its own graph and containers, and the leaf modules and parameters of the original.

    Editing the copy (nodes, submodules added under new names) leaves the original as it was. Parameters and
    buffers that the graph does not reference are carried over too: a state_dict keeps its names.
    """
    graph = copy.deepcopy(graph_module.graph)
    shared = fx.GraphModule(graph_module, graph, type(graph_module).__name__)
    adopt_state(graph_module, shared)
    shared.meta = {**graph_module.meta, KEY: record_of(graph_module)}
    return shared


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


def fresh_path(graph_module: fx.GraphModule, stem: str) -> str:
    """Return the first of ``stem_0``, ``stem_1``, … at which nothing lies."""
    index = 0
    while resolves(graph_module, f"{stem}_{index}"):
        index += 1
    return f"{stem}_{index}"


def resolves(graph_module: fx.GraphModule, path: str) -> bool:
    """Say whether something lies at a dotted path."""
    here: object = graph_module
    for part in path.split("."):
        if not hasattr(here, part):
            return False
        here = getattr(here, part)
    return True


def parameter_count(module: nn.Module) -> int:
    """Return the number of scalars in the parameters of `module`, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
