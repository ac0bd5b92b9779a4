"""Spread residual edges: write them as plain additions, for tools that follow channels through a model."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import PassError
from fxgrow.graph.network import shape_of
from fxgrow.passes.base import Pass
from fxgrow.primitives.linear_map import pointwise
from fxgrow.primitives.modules import add_module, fetch_attribute, fresh_path
from fxgrow.primitives.residual import add_rows
from fxgrow.record.location import name_of
from fxgrow.record.provenance import BlockNode, Provenance, PseudoLayerNode, mark, provenance_of


@dataclass(frozen=True)
class SpreadResidualEdges(Pass):
    """Write each residual edge to some rows as an addition to all of them, with zeros for the others.

    A tool that prunes channels sees which outputs an addition couples, but not what an index means. Run this last: what
    it inserts is fixed, and nothing is won by growing there.

    Rewrites:
        ``o + P(x)`` on the rows K becomes ``o + E P(x)``, where E is a Linear, or a convolution of kernel size 1, whose
        weight ``(neurons, rows)`` is 1 at ``(K_j, j)`` and 0 elsewhere; it does not require gradients.

    Leaves alone:
        Residual edges to all rows.

    Preserves:
        The function and every gradient, if all values are finite. Each edge costs one more matrix product.
    """

    name: ClassVar[str] = "spread-residual-edges"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Spread every edge that has an index.

        Raises:
            PassError: If the graph carries no shapes.
        """
        spread: dict[str, str] = {}
        for edge in graph_module.graph.find_nodes(op="call_function", target=add_rows):
            index = edge.args[2]
            if not isinstance(index, fx.Node):
                continue
            target = str(index.target)
            if target not in spread:
                spread[target] = _insert_matrix(graph_module, edge, target)
            _rewire(graph_module.graph, edge, index, spread[target])


def _insert_matrix(graph_module: fx.GraphModule, edge: fx.Node, index_path: str) -> str:
    """Add the module that maps the addition's channels to all rows, and return its path."""
    output, channel_dim = edge.args[0], edge.args[3]
    assert isinstance(output, fx.Node)
    assert isinstance(channel_dim, int)
    shape = shape_of(output)
    if shape is None:
        fix = "trace the model with fxgrow.trace(model, example_inputs), or propagate shapes"
        raise PassError(f"the shape of {name_of(output)} is not known", where=index_path, fix=fix)
    index = fetch_attribute(graph_module, index_path)
    assert isinstance(index, Tensor)
    like = torch.empty(0, dtype=output.meta["tensor_meta"].dtype, device=index.device)
    path = fresh_path(graph_module, f"{index_path.rpartition('.')[0]}.spread")
    add_module(graph_module, path, _one_hot(index, shape[channel_dim], -1 - channel_dim, like))
    return path


def _one_hot(index: Tensor, neurons: int, spatial: int, like: Tensor) -> nn.Module:
    module = pointwise(len(index), neurons, spatial, weight=like, bias=False)
    weight = module.get_parameter("weight").requires_grad_(False)
    rows = nn.functional.one_hot(index, neurons).t()
    weight.copy_(rows.reshape(weight.shape))
    return module


def _rewire(graph: fx.Graph, edge: fx.Node, index: fx.Node, path: str) -> None:
    output, addition, _, channel_dim = edge.args
    with graph.inserting_before(edge):
        spread = graph.call_module(path, (addition,))
    made = provenance_of(edge) or Provenance()
    if made.part is not None:
        mark(spread, PseudoLayerNode(made.part.path, made.part.site))
    if made.block is not None:
        mark(spread, BlockNode(made.block.path))
    spread.meta["nn_module_stack"] = edge.meta.get("nn_module_stack", {})
    edge.args = (output, spread, None, channel_dim)
    if not index.users:
        graph.erase_node(index)
