"""Add a residual edge: bring a value, through a gate that is zero, back into a later one."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.execution.inputs import device_of
from fxgrow.graph.hosts import nearest_site
from fxgrow.graph.memory import may_swap, refuse_overwritten
from fxgrow.graph.network import check_residual_edge, shape_of, to_networkx
from fxgrow.graph.operations import operations_of
from fxgrow.graph.regions import value_at
from fxgrow.optimizers.kinship import added_parameters, kin_of
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion, inserted_by
from fxgrow.primitives.modules import add_module, fresh_path
from fxgrow.primitives.residual import add_rows
from fxgrow.record.lineage import Lineage
from fxgrow.record.location import name_of
from fxgrow.record.provenance import PseudoLayerNode, ResidualEdge, mark
from fxgrow.record.record import Growth


@dataclass(frozen=True)
class AddResidualEdge(Pass):
    """Add a gated copy of one value to another, which may be blocks away: ``t`` becomes ``t + g * s`` with ``g = 0``.

    Rewrites:
        Every reader of the target value t reads the sum. The gate g has one parameter for each channel and lies at
        ``<target>_edge_<index>.gate``. Where the source is computed later than the target, and not from it, its
        computation moves forward.

    Leaves alone:
        Everything else. An edge is refused that would close a cycle, that connects values of different shapes, one
        end of which is mutated in place by a later operation, or whose source would have to draw random numbers before
        others that now draw first.

    Preserves:
        Every shape, the function, and the gradients of all other parameters: the gate is zero at insertion.

    Args:
        source: Module path of the value that is added, or the name of an input of the model.
        target: Module path of the value that it is added to.
    """

    source: str
    target: str

    name: ClassVar[str] = "add-residual-edge"
    idempotent: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Insert the gate and the add.

        Raises:
            PassError: If an end does not exist, or the edge may not go there.
        """
        read, grown = value_at(graph_module, self.source), value_at(graph_module, self.target)
        self._check(graph_module, read, grown)
        moved = _bring_forward(graph_module, read, grown, where=f"{self.source} -> {self.target}")
        channel_dim = channel_dim_of(graph_module, grown)
        path = fresh_path(graph_module, f"{self.target}_edge")
        add_module(graph_module, path, _gate(graph_module, grown, channel_dim))
        self._connect(graph_module.graph, read, grown, path, channel_dim, moved)

    def _check(self, graph_module: fx.GraphModule, read: fx.Node, grown: fx.Node) -> None:
        where = f"{self.source} -> {self.target}"
        if read is grown:
            raise PassError("both ends are one value", where=where, fix="name two values")
        if shape_of(read) is None or shape_of(grown) is None:
            fix = "trace the model with fxgrow.trace, or run fxgrow.execution.shapes.propagate_shapes"
            raise PassError("the shapes of its ends are not known", where=where, fix=fix)
        try:
            check_residual_edge(to_networkx(graph_module), read.name, grown.name, same_shape=True)
        except PassError as error:
            raise PassError(error.what, where=where, fix=error.fix) from error
        for value in (read, grown):
            refuse_overwritten(operations_of(graph_module), value, after=value, where=where)

    def _connect(
        self, graph: fx.Graph, read: fx.Node, grown: fx.Node, path: str, channel_dim: int, moved: bool
    ) -> None:
        readers = list(grown.users)
        with graph.inserting_after(max(read, grown)):
            edge = graph.call_function(add_rows)  # holds the place; its arguments follow
        with graph.inserting_before(edge):
            gate = graph.get_attr(f"{path}.gate")
            gated = graph.call_function(operator.mul, (read, gate))
        edge.args = (grown, gated, None, channel_dim)
        for reader in readers:
            reader.replace_input_with(grown, edge)
        for node in (gate, gated, edge):
            names = path, self.target
            mark(node, ResidualEdge(*names, moved=moved) if node is edge else PseudoLayerNode(*names))
            if "nn_module_stack" in grown.meta:
                node.meta["nn_module_stack"] = grown.meta["nn_module_stack"]

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Let the gate hang on the site above the target, and not on that above the source."""
        site = nearest_site(before, value_at(before, self.target))
        names = added_parameters(before, after)
        return {name: kin_of(site, vector=after.get_parameter(name).dim() < 2) for name in names} if site else {}

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return the line of the growth history."""
        (name,) = added_parameters(before, after)
        size = after.get_parameter(name).numel()
        return (Growth("residual-edge", self.target, size, neurons=size, path=name.removesuffix(".gate")),)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return the edge, if it is still there."""
        return inserted_by(graph_module, edit)


def channel_dim_of(graph_module: fx.GraphModule, value: fx.Node) -> int:
    """Return the dimension of the channels, from the end: the last, unless the value still is as its site made it."""
    site, shape = nearest_site(graph_module, value), shape_of(value)
    if site is None or shape is None:
        return -1
    made = shape_of(site.calls[0])
    kept = made is not None and len(made) == len(shape) and shape[site.map.channel_dim] == site.neurons
    return site.map.channel_dim if kept else -1


def _gate(graph_module: fx.GraphModule, grown: fx.Node, channel_dim: int) -> nn.Module:
    shape = shape_of(grown)
    assert shape is not None
    sizes = (shape[channel_dim], *[1] * (-1 - channel_dim))
    holder = nn.Module()
    options = {"dtype": grown.meta["tensor_meta"].dtype, "device": device_of(graph_module)}
    holder.gate = nn.Parameter(torch.zeros(sizes, **options))
    return holder.train(graph_module.training)


def _bring_forward(graph_module: fx.GraphModule, read: fx.Node, grown: fx.Node, where: str) -> bool:
    """Compute `read` before the readers of `grown` need it; return whether anything had to move."""
    first = min(grown.users, default=read)
    if read < first:
        return False
    needed, pending = {read}, [read]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source > grown and source not in needed:
                needed.add(source)
                pending.append(source)
    passed = [node for node in graph_module.graph.nodes if grown < node < read and node not in needed]
    if not may_swap(graph_module, needed, passed):
        what = f"{name_of(read)} would be computed before others that draw random numbers or move the same statistics"
        raise PassError(what, where=where, fix="exchange source and target")
    place, operations = grown, operations_of(graph_module)
    for node in sorted(needed):
        if operations.written(node):
            fix = "run the pass functionalize-inplace first"
            raise PassError(f"{name_of(node)} would move, and overwrites a value in place", where=where, fix=fix)
        place.append(node)
        place = node
    return True
