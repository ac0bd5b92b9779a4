"""Cutting a flat graph into its repeated blocks, so that each can be compiled by itself.

A *piece* is a run of neighbouring nodes that belong to one block, as in ``blocks.3`` or ``layer1.0``; what lies before,
between and after the blocks makes pieces of its own. Runs of a topological order cannot depend on each other in a
circle, so any such cut is valid. Equal blocks give pieces of equal structure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch.fx as fx
from torch import nn

from fxgrow.record.numbering import numbered
from fxgrow.record.provenance import part_of, provenance_of

#: A block of more nodes is cut again, at the next number in its module paths (``stages.2.blocks.0``).
_LARGE = 64
_NOT_COMPUTED = ("placeholder", "get_attr", "output")


@dataclass(frozen=True)
class Piece:
    """A part of a graph that reads `inputs`, values of the whole graph, and computes `outputs`."""

    label: str  #: path of its block; empty outside the blocks
    graph: fx.Graph  #: one placeholder for each input, the tuple of outputs, modules under the names of `leaves`
    leaves: dict[str, str]  #: module path in the whole graph by the name that `graph` gives it
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def cut(graph_module: fx.GraphModule) -> tuple[Piece, ...]:
    """Cut the graph into pieces that compute all its values, in order; parameters read by get_attr are inputs."""
    labels = _labels(graph_module)
    runs: list[list[fx.Node]] = []
    for node, label in labels.items():
        if not runs or labels[runs[-1][-1]] != label:
            runs.append([])
        runs[-1].append(node)
    return tuple(_piece(labels[run[0]], run) for run in runs)


def _labels(graph_module: fx.GraphModule) -> dict[fx.Node, str]:
    """Map every computed node, in order, to the path of its block."""
    containers = _containers(graph_module)
    numbers = dict.fromkeys(containers, 1)
    while True:
        labels = {node: _prefix(path, numbers[node]) for node, path in containers.items()}
        sizes = Counter(labels.values())
        deeper = {
            node
            for node, path in containers.items()
            if sizes[labels[node]] > _LARGE and _prefix(path, numbers[node] + 1) != labels[node]
        }
        if not deeper:
            return labels
        numbers.update({node: numbers[node] + 1 for node in deeper})


def _containers(graph_module: fx.GraphModule) -> dict[fx.Node, Sequence[str]]:
    """Map every computed node to the path, in parts, of the module in which it was called.

    A tracer writes no stack on what the outermost forward calls. What a pass inserted, and graphs without any stack,
    belong to the block of the node before.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op not in _NOT_COMPUTED]
    traced = any("nn_module_stack" in node.meta for node in nodes)
    containers: dict[fx.Node, Sequence[str]] = {}
    previous: Sequence[str] = ()
    for node in nodes:
        own = _container(node)
        if own is None:
            own = () if traced and provenance_of(node) is None else previous
        containers[node] = previous = own
    return containers


def _container(node: fx.Node) -> Sequence[str] | None:
    """Return the path, in parts, of the module in which a node was called; None where nothing tells."""
    part = part_of(node)
    if node.op == "call_module":
        return str(node.target).split(".")[:-1]
    if part is not None:
        return part.site.split(".")[:-1]
    if "nn_module_stack" in node.meta:
        stack = list(node.meta["nn_module_stack"].values())
        return str(stack[-1][0]).split(".") if stack else ()
    return None


def _prefix(path: Sequence[str], numbers: int) -> str:
    """Return the path up to its n-th numbered part, or to its last one where there are fewer; empty without any."""
    ends = [index + 1 for index, part in enumerate(path) if numbered(part)][:numbers]
    return ".".join(path[: ends[-1]]) if ends else ""


def _piece(label: str, run: Sequence[fx.Node]) -> Piece:
    inside = set(run)
    inputs = tuple(_unique(value for node in run for value in node.all_input_nodes if value not in inside))
    outputs = tuple(node for node in run if any(user not in inside for user in node.users))
    graph = fx.Graph()
    copies = {value: graph.placeholder(f"input_{index}") for index, value in enumerate(inputs)}
    leaves: dict[str, str] = {}
    for node in run:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "call_module":
            copies[node].target = _leaf_name(leaves, str(node.target))
    graph.output(tuple(copies[node] for node in outputs))
    return Piece(label, graph, leaves, inputs, outputs)


def _leaf_name(leaves: dict[str, str], path: str) -> str:
    """Name the module at `path` by its order in the piece, so that equal blocks use equal names."""
    for name, known in leaves.items():
        if known == path:
            return name
    name = f"leaf_{len(leaves)}"
    leaves[name] = path
    return name


def _unique(values: Iterable[fx.Node]) -> Iterable[fx.Node]:
    return dict.fromkeys(values)


def leaves_of(graph_module: fx.GraphModule, piece: Piece) -> nn.Module:
    """Return a container of the modules that `piece` calls, shared with the whole model."""
    container = nn.Module()
    for name, path in piece.leaves.items():
        container.add_module(name, graph_module.get_submodule(path))
    return container
