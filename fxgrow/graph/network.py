"""The graph as networkx sees it: where a residual edge may go, and how deep each neuron is."""

from collections.abc import Mapping

import networkx as nx
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.graph.sites import find_sites
from fxgrow.record.depth import Step, depths
from fxgrow.record.facts import kept
from fxgrow.record.provenance import edge_of, part_of, provenance_of


@kept(notes=True)
def to_networkx(graph_module: fx.GraphModule) -> "nx.DiGraph[str]":
    """Return the data flow of `graph_module` as a directed graph, frozen; a copy of it can be changed.

    Nodes are the names of the fx nodes with the attributes ``position`` (in topological order), ``op``, ``target``,
    ``shape`` (a tuple, or None where it is not known), ``pseudo_layer`` (module path or None) and ``residual_edge``
    (bool). An edge leads from a value to each node that reads it.

    Example:
        >>> import networkx as nx, torch
        >>> network = to_networkx(torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())))
        >>> list(nx.topological_sort(network))
        ['input_1', '_0', '_1', 'output']
    """
    network: nx.DiGraph[str] = nx.DiGraph()
    for position, node in enumerate(graph_module.graph.nodes):
        part = part_of(node)
        network.add_node(
            node.name,
            position=position,
            op=node.op,
            target=node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target)),
            shape=shape_of(node),
            pseudo_layer=part.path if part else None,
            residual_edge=edge_of(node) is not None,
        )
        network.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
    return nx.freeze(network)


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Return the shape of a node's value; None where it is not a tensor, or not known."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(int(size) for size in shape)


def check_residual_edge(network: "nx.DiGraph[str]", read: str, grown: str, *, same_shape: bool = False) -> None:
    """Check that the value `grown` may have something added to it that is computed from the value `read`.

    Args:
        network: The view of the graph that `to_networkx` returns.
        read: Name of the value that the pseudo-layer reads.
        grown: Name of the value that the residual edge adds to.
        same_shape: Whether what is added has the shape of `read`, so that both shapes must agree.

    Raises:
        PassError: If the edge would close a cycle (`read` depends on `grown`), or if the shapes differ.
    """
    backwards = network.nodes[grown]["position"] < network.nodes[read]["position"]
    if backwards and nx.has_path(network, grown, read):
        raise PassError(
            "the edge would close a cycle: what it reads is computed from what it is added to",
            where=f"{read} -> {grown}",
            fix="read a value that comes before the one that grows",
        )
    shapes = network.nodes[read]["shape"], network.nodes[grown]["shape"]
    if same_shape and None not in shapes and shapes[0] != shapes[1]:
        raise PassError(
            f"what it reads has shape {shapes[0]}, and what it is added to {shapes[1]}",
            where=f"{read} -> {grown}",
            fix="connect two values of one shape",
        )


@kept(notes=True)
def depth_map(graph_module: fx.GraphModule) -> Mapping[str, list[int]]:
    """Return, for each site, how many pseudo-layers deep each of its neurons is.

    A neuron that nothing was added to has depth 0. A pseudo-layer that reads another value of the same site stands
    behind what was grown there before and is one deeper; pseudo-layers beside each other count once. What was grown
    inside a pseudo-layer adds to the depth of the rows that it serves. A half-step counts like a pseudo-layer for the
    rows that it repeats, and what grew on its own rows adds to their depth.

    Example:
        ``depth_map(grown)["blocks.0.mlp.fc1"].count(0)`` neurons did not grow.
    """
    steps = [
        Step.of(node.name, (source.name for source in node.all_input_nodes), provenance_of(node))
        for node in graph_module.graph.nodes
    ]
    return depths(steps, {path: site.neurons for path, site in find_sites(graph_module).items()})
