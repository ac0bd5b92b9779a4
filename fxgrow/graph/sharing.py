"""Copies of a GraphModule that share its parameters."""

import copy

import torch.fx as fx

from fxgrow.graph.likeness import graph_module_like
from fxgrow.record.annotations import KEY
from fxgrow.record.record import record_of


def share(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a GraphModule with its own graph and containers, and the leaf modules and parameters of the original.

    Editing the copy (nodes, submodules added under new names) leaves the original as it was. Parameters and
    buffers that the graph does not reference are carried over too: a state_dict keeps its names.
    """
    shared = graph_module_like(graph_module, copy.deepcopy(graph_module.graph))
    shared.meta = {**graph_module.meta, KEY: record_of(graph_module)}
    return shared
