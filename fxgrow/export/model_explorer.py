"""The graph of a model and what is known of its nodes, for Model Explorer.

Formats: ``graph_builder.GraphCollection`` and ``node_data_builder.ModelNodeData`` of ai-edge-model-explorer, as JSON.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fxgrow.export.folder import check_folder, make_folder
from fxgrow.files.atomic import whole_or_nothing
from fxgrow.inspection.graph import GraphNode, GraphView, view_graph
from fxgrow.inspection.model import Model
from fxgrow.inspection.quantities import shape_text

#: from what asks least for growth, or grew least, to what does most; the colour-blind can tell them apart
_GRADIENT = ({"stop": 0, "bgColor": "#fff7bc"}, {"stop": 0.5, "bgColor": "#fe9929"}, {"stop": 1, "bgColor": "#662506"})


def export_model_explorer(model: Model, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
    """Write ``graph.json`` and the node data ``depth.json`` and, where a model is scored, ``scores.json``.

    ``model-explorer graph.json`` shows the graph by its modules, and "add custom node data" takes the others.

    Args:
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        folder: Where to; it is made if it is missing.
        overwrite: Whether files that are there already may be replaced.

    Returns:
        The files.

    Raises:
        ExportError: If there is a file already.
    """
    view = view_graph(model)
    documents = {"graph.json": graph_collection(view)} | {
        f"{name}.json": node_data(view.name, values)
        for name, values in (("depth", _depths(view.nodes)), ("scores", _scores(view.nodes)))
        if values
    }
    paths = check_folder(folder, documents, overwrite=overwrite)
    make_folder(folder)
    for path, document in zip(paths, documents.values(), strict=True):
        with whole_or_nothing(path) as stream:
            stream.write(json.dumps(document, indent=1).encode())
    return paths


def graph_collection(view: GraphView) -> dict[str, Any]:
    """Return a graph, its nodes in the namespaces of their modules."""
    sources: dict[str, list[str]] = {}
    for source, reader in view.edges:
        sources.setdefault(reader, []).append(source)
    nodes = [_node(node, sources.get(node.name, ())) for node in view.nodes]
    return {"label": view.name, "graphs": [{"id": view.name, "nodes": nodes}]}


def node_data(graph: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Return numbers of nodes, by their names, coloured from the least to the greatest."""
    results = {name: {"value": value} for name, value in values.items()}
    return {graph: {"results": results, "gradient": list(_GRADIENT)}}


def _node(node: GraphNode, sources: Iterable[str]) -> dict[str, Any]:
    facts = {"path": node.path, "output": shape_text(node.shape), "grown": node.grown or "", "depth": node.depth or ""}
    above, _, name = node.path.rpartition(".")
    called = node.operation[:1].isupper()  # a module, which lies in the namespace of the one above it
    return {
        "id": node.name,
        "label": f"{name} {node.operation}" if called else node.operation,
        "namespace": (above if called else node.path).replace(".", "/"),
        "attrs": [{"key": key, "value": str(value)} for key, value in facts.items() if value],
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(index)}
            for index, source in enumerate(sources)
        ],
    }


def _depths(nodes: Iterable[GraphNode]) -> dict[str, float]:
    return {node.name: node.depth for node in nodes if node.site}


def _scores(nodes: Iterable[GraphNode]) -> dict[str, float]:
    """Return how strongly sites ask for growth: an eigenvalue with its sign turned."""
    return {node.name: -node.score for node in nodes if node.score is not None}
