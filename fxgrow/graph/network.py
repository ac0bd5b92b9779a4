"""The graph as networkx sees it: where a residual edge may go, and how deep each neuron is."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.graph.sites import find_sites
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
            f"a residual edge from {read} to {grown} would close a cycle, since {read} is computed from {grown}",
            where="residual edge",
            fix="read a value that comes before the one that grows",
        )
    shapes = network.nodes[read]["shape"], network.nodes[grown]["shape"]
    if same_shape and None not in shapes and shapes[0] != shapes[1]:
        raise PassError(
            f"{read} has shape {shapes[0]} and {grown} has shape {shapes[1]}",
            where="residual edge",
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
    layers = _pseudo_layers(graph_module)
    edges: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        edge = edge_of(node)
        if edge is not None and edge.rows is not None:  # a bare residual edge adds no depth
            edges[edge.site].append(node)
    depths = {path: _depths(site.neurons, edges[path], layers) for path, site in find_sites(graph_module).items()}
    for site, copied, rows in _repeats(graph_module):
        for place, row in enumerate(rows):
            depths[site][row] += 1 + depths[copied][place]
    return depths


def _repeats(graph_module: fx.GraphModule) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return which rows half-steps repeat, those of half-steps inside others first."""
    made = [provenance.block for node in graph_module.graph.nodes if (provenance := provenance_of(node))]
    repeats = dict.fromkeys(entry for block in made if block for entry in block.repeats)
    return sorted(repeats, key=lambda entry: -entry[1].count("."))


@dataclass
class _PseudoLayerNodes:
    """The nodes of one pseudo-layer, those of pseudo-layers inside it included, in graph order."""

    nodes: dict[fx.Node, None]

    @property
    def reads(self) -> set[fx.Node]:
        """The values outside that its nodes read."""
        return {value for node in self.nodes for value in node.all_input_nodes if value not in self.nodes}

    @property
    def nested(self) -> int:
        """The longest chain of pseudo-layers inside."""
        longest: dict[fx.Node, int] = {}
        for node in self.nodes:
            before = max((longest.get(source, 0) for source in node.all_input_nodes), default=0)
            longest[node] = before + (edge_of(node) is not None)
        return max(longest.values(), default=0)


def _pseudo_layers(graph_module: fx.GraphModule) -> dict[str, _PseudoLayerNodes]:
    """Return the nodes of every pseudo-layer, by its module path."""
    layers: dict[str, _PseudoLayerNodes] = defaultdict(lambda: _PseudoLayerNodes({}))
    for node in graph_module.graph.nodes:
        part = part_of(node)
        if part is None:
            continue
        # the edge that brings a pseudo-layer's output back lies inside the layers around it, but not inside itself
        parts = (part.site if edge_of(node) else part.path).split(".")
        for ancestor in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            layers[ancestor].nodes[node] = None
    return dict(layers)


def _depths(neurons: int, edges: list[fx.Node], layers: dict[str, _PseudoLayerNodes]) -> list[int]:
    """Follow a site's residual edges in graph order, keeping the depth of each neuron at each value on the way."""
    at: dict[fx.Node, list[int]] = {}
    deepest = [0] * neurons
    for edge in edges:
        made = edge_of(edge)
        assert made is not None
        before = at.setdefault(edge.all_input_nodes[0], [0] * neurons)
        layer = layers[made.path]
        behind = max((max(at[value]) for value in layer.reads if value in at), default=0)
        depth, rows = behind + 1 + layer.nested, set(made.rows or ())
        at[edge] = [max(old, depth) if row in rows else old for row, old in enumerate(before)]
        deepest = [max(pair) for pair in zip(deepest, at[edge], strict=True)]
    return deepest
