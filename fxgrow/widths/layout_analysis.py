"""The walk that gives every value of a graph its layout."""

from collections import Counter
from collections.abc import Container
from typing import Any

import torch.fx as fx
from torch import Tensor

from fxgrow.errors import PassError
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import operations_of
from fxgrow.graph.sites import Site, find_sites, site_input
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.facts import kept
from fxgrow.record.location import name_of, spelled_operation
from fxgrow.widths.axes import dim_of, freeze, unify
from fxgrow.widths.layout_rules import apply_rule
from fxgrow.widths.layouts import Layout, Layouts, SiteRows, fresh


@kept(notes=True)
def find_layouts(graph_module: fx.GraphModule) -> Layouts:
    """Follow the axes of all values through the graph.

    Raises:
        PassError: If the shapes of the values are not known.
    """
    sites, operations = find_sites(graph_module), operations_of(graph_module)
    calls = {call: site for site in sites.values() for call in site.calls}
    found = Layouts(sites, bound=_bound_tensors(graph_module, calls))
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method") and "type" not in node.meta:
            fix = "trace the model with fxgrow.trace, or run fxgrow.execution.shapes.propagate_shapes"
            raise PassError("the shapes of its values are not known", where=name_of(node), fix=fix)
        if node in calls:
            found.values[node] = _call_site(found, node, calls[node])
        elif node.op == "output":
            freeze((dim for layout in found.tensors(node.args) for dim in layout.dims), "it is an output of the model")
            found.freeze_sizes(node.args, "it is an output of the model")
        elif node.op in ("placeholder", "get_attr"):
            found.values[node] = _given(graph_module, node)
        else:
            found.values[node] = apply_rule(found, graph_module, node, operations)
    return found


def _bound_tensors(graph_module: fx.GraphModule, calls: Container[fx.Node]) -> dict[str, str]:
    """Say of each tensor that more reads than its own module why it cannot be resized there alone.

    One whose module lies at several paths may grow, but resizing replaces it at one of them; one that the graph reads
    by itself, as a decoder reads its encoder's transposed weight, would no longer fit there.
    """
    tensors: list[tuple[str, Tensor]] = [*graph_module.named_parameters(remove_duplicate=False)]
    tensors += graph_module.named_buffers(remove_duplicate=False)
    names = Counter(id(tensor) for _, tensor in tensors)
    bound = {name: f"{name} has other names too" for name, tensor in tensors if names[id(tensor)] > 1}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        reader = next((user for user in node.users if user not in calls), None)
        if reader is not None:
            bound.setdefault(str(node.target), f"{spelled_operation(reader)} reads {node.target} too")
    return bound


def _given(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    if node.op == "get_attr":
        value = fetch_attribute(graph_module, str(node.target))
        if isinstance(value, Tensor):
            return Layout(tuple(dim_of(size, frozen=f"{node.target} has it") for size in value.shape))
        return None
    return fresh(node, f"it is a size of the input {node.target}")


def _call_site(found: Layouts, node: fx.Node, site: Site) -> Any:
    """Let the columns of a site be the channels that it reads, and its rows the channels that it makes."""
    read, shape = found.values[site_input(node)], shape_of(node)
    channel = site.map.channel_dim
    if site.path not in found.rows:
        reason = site.refusal or found.bound.get(site.weight, "") or found.bound.get(site.bias or "", "")
        if site.map.groups > 1:
            reason = reason or "it is a grouped convolution"
        found.rows[site.path] = dim_of(site.neurons, frozen=reason, static=True)
        found.columns[site.path] = dim_of(site.map.in_channels, frozen=reason, static=True)
    rows = found.rows[site.path]
    found.columns[site.path] = unify(found.columns[site.path], read.dims[channel], f"{site.path} reads it")
    if site.neurons == 1 or site.map.in_channels == 1:
        freeze((rows, found.columns[site.path]), f"{site.path} has a single row or column")
    for origin in read.origins:
        found.readers[origin].append(node)
    assert shape is not None
    around = list(read.dims[:channel]), list(read.dims[len(read.dims) + channel + 1 :])
    if site.map.spatial:
        around = around[0], [dim_of(size, frozen="it is a spatial dimension") for size in shape[channel + 1 :]]
    return Layout((*around[0], rows, *around[1]), frozenset([SiteRows(site.path)]), odd=True)
