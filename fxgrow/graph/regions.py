"""The part of a graph that a module stands for, found by its path: its nodes, its entry and its exit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
import torch.fx as fx

from fxgrow.errors import PassError
from fxgrow.graph.network import shape_of
from fxgrow.graph.residual import find_steps
from fxgrow.record.location import name_of
from fxgrow.record.provenance import edge_of, part_of

_SOURCE, _SINK = "(outside)", "(the rest of the graph)"


@dataclass(frozen=True)
class Region:
    """The nodes of a module, which data enters at one value and leaves at another.

    Values of other shapes than the entry's (masks, position biases, sizes) may come in from the side.
    """

    path: str
    nodes: tuple[fx.Node, ...]  #: in graph order, the `get_attr` nodes of its parameters included
    entry: fx.Node  #: the value outside that it reads
    exit: fx.Node  #: its node whose value is read outside


def find_region(graph_module: fx.GraphModule, path: str) -> Region:
    """Return the region of the module at `path`, checked to have one entry and one exit by dominators.

    The exit is the immediate dominator of everything behind the region, and the entry dominates the exit.

    Raises:
        PassError: If no node belongs to such a module, or if the region has several entries or exits.
    """
    members = members_of(graph_module, path)
    escaping = [node for node in members if any(user not in members for user in node.users)]
    if len(escaping) != 1:
        fix = "name a single block, whose module is called once"
        raise PassError(f"{_listed(escaping)} of it is read outside, and not one value", where=path, fix=fix)
    entries = _entries(members, escaping[0])
    network: nx.DiGraph[str] = nx.DiGraph()
    network.add_edges_from((source.name, node.name) for node in members for source in node.all_input_nodes)
    network.add_edges_from((_SOURCE, node.name) for node in entries)
    network.add_edges_from((node.name, _SINK) for node in escaping)
    if _SINK not in network or not entries or not nx.has_path(network, _SOURCE, _SINK):
        raise PassError("no value of its output's shape enters it", where=path, fix="name a block that keeps the shape")
    dominators = nx.immediate_dominators(network, _SOURCE)
    above = escaping[0].name
    while dominators[above] != _SOURCE:
        above = dominators[above]
    entry = next((node for node in entries if node.name == above), None) or _stream(graph_module, escaping[0], entries)
    if entry is None:
        fix = "name a block with a single input"
        raise PassError(f"it reads {_listed(entries)}, and not one value", where=path, fix=fix)
    return Region(path, tuple(members), entry, escaping[0])


def members_of(graph_module: fx.GraphModule, path: str) -> dict[fx.Node, None]:
    """Return the nodes of the module at `path`, and what lies on the way between them, in graph order.

    Raises:
        PassError: If there are none.
    """
    own = {node for node in graph_module.graph.nodes if any(_within(place, path) for place in _places(node))}
    if not own:
        fix = "`fxgrow inspect` lists the modules"
        raise PassError("no operation of the graph belongs to a module of this name", where=path, fix=fix)
    before: set[fx.Node] = set()  # computed from a member
    for node in graph_module.graph.nodes:
        if any(source in own or source in before for source in node.all_input_nodes):
            before.add(node)
    after: set[fx.Node] = set()  # read by a member
    for node in reversed(graph_module.graph.nodes):
        if any(user in own or user in after for user in node.users):
            after.add(node)
    return {node: None for node in graph_module.graph.nodes if node in own or (node in before and node in after)}


def value_at(graph_module: fx.GraphModule, path: str) -> fx.Node:
    """Return the value that the module at `path` computes, or the input of that name.

    Raises:
        PassError: If there is no such module or input, or if it computes no single value.
    """
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" and str(node.target) == path:
            return node
    calls = [node for node in graph_module.graph.nodes if node.op == "call_module" and node.target == path]
    if len(calls) > 1:
        raise PassError(f"it is called {len(calls)} times", where=path, fix="name a module that is called once")
    if calls:
        return _grown(calls[0])
    members = members_of(graph_module, path)
    escaping = [node for node in members if any(user not in members for user in node.users)]
    if len(escaping) != 1:
        fix = "name a module inside it"
        raise PassError(f"{_listed(escaping)} of it is read outside, and not one value", where=path, fix=fix)
    return _grown(escaping[0])


def _grown(value: fx.Node) -> fx.Node:
    """Follow the residual edges that were added to a value."""
    while len(edges := [user for user in value.users if _adds_to(user, value)]) == 1:
        value = edges[0]
    return value


def _adds_to(node: fx.Node, value: fx.Node) -> bool:
    return edge_of(node) is not None and node.args[0] is value


def _places(node: fx.Node) -> list[str]:
    """Return the module paths that a node belongs to."""
    if node.op in ("call_module", "get_attr"):
        return [str(node.target)]
    part = part_of(node)
    stack = [str(path) for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return [*stack, *([part.site] if part else [])]


def _within(place: str, path: str) -> bool:
    return place == path or place.startswith(f"{path}.")


def _entries(members: dict[fx.Node, None], exit_node: fx.Node) -> list[fx.Node]:
    """Return the values outside that data enters at: those of the exit's shape, where shapes are known."""
    outside = dict.fromkeys(
        source
        for node in members
        for source in node.all_input_nodes
        if source not in members and source.op != "get_attr"
    )
    shape = shape_of(exit_node)
    if shape is not None:
        return [node for node in outside if shape_of(node) == shape]
    computed = [node for node in outside if node.op != "placeholder"]
    return computed or list(outside)


def _stream(graph_module: fx.GraphModule, exit_node: fx.Node, entries: Iterable[fx.Node]) -> fx.Node | None:
    """Return the entry that residual steps lead to from the exit: what else enters, as a decoder's memory, is read."""
    steps, value = find_steps(graph_module), exit_node
    while value in steps and value not in entries:
        value = steps[value].entry
    return value if value in entries else None


def _listed(nodes: Iterable[fx.Node]) -> str:
    counted = Counter(map(name_of, nodes))
    return ", ".join(f"{name} ({n} calls)" if n > 1 else name for name, n in counted.items()) or "nothing"
