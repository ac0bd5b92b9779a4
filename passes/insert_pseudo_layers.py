"""Insert pseudo-layers at sites: the rewrite that growth is made of."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import PassError
from fxgrow.graph.activations import activation_after
from fxgrow.graph.memory import refuse_overwritten
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.graph.sites import Site, find_sites, site_input
from fxgrow.operators import Attachment, PseudoLayer, find_operator
from fxgrow.operators.base import check_trainable
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion, inserted_by
from fxgrow.primitives.modules import add_module, fresh_path, parameter_count
from fxgrow.primitives.residual import add_rows
from fxgrow.record.provenance import PseudoLayerNode, ResidualEdge, mark
from fxgrow.record.record import Evidence, Growth


@dataclass(frozen=True)
class InsertPseudoLayers(Pass):
    """Add a pseudo-layer to some rows of each of several sites, along residual edges.

    Rewrites:
        1. A site, by an operator that reads its *input* x: its output o becomes ``o + P(x)`` on the rows, for every
           reader of o, at each of its calls.
        2. A site that one elementwise activation follows, by an operator that reads its *output*: the activation's
           value h becomes ``h + P(h)`` on the rows.
        3. The same without an activation: o becomes ``o + P(o)`` on the rows.
        The pseudo-layer's own layers are inlined, so that they are sites themselves, and lie under
        ``<site>_pseudo_<index>``.

    Leaves alone:
        Rows that are not named, and the parameters of the sites. Sites with a refusal (`fxgrow.graph.sites`) are
        refused with that reason; so are values that a later operation mutates in place: run `functionalize-inplace`
        first.

    Preserves:
        Every shape, and the function: each addition is exactly zero at insertion.

    Args:
        rows: The neurons that grow, ascending, by the module path of their site.
        operator: Name of the operator (`fxgrow.operators`).
        seed: Seed of the operator's random initialisation, together with the pseudo-layer's path.
        directions: Where an operator starts from eigenvectors: those of the chosen rows, ``(rows, features)``, by site.
            They are data and not part of the pass's text; a replayed edit starts from random ones instead.
        evidence: The scores for which the rows were chosen, by site: data for the growth history.
    """

    rows: Mapping[str, tuple[int, ...]]
    operator: str = "serial"
    seed: int = 0
    directions: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False, metadata={"data": True})
    evidence: Mapping[str, Evidence] = field(default_factory=dict, compare=False, repr=False, metadata={"data": True})

    name: ClassVar[str] = "insert-pseudo-layers"
    idempotent: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Insert one pseudo-layer for each site.

        Raises:
            PassError: If a site does not exist, may not grow or has no such rows, or if a residual edge may not go
                where the operator wants it.
            PlanError: If the operator does not exist, or could never train.
        """
        sites = find_sites(graph_module)
        for path, rows in self.rows.items():
            _check_rows(path, tuple(rows), sites)
        reads = find_operator(self.operator).reads
        operations = operations_of(graph_module)
        grown = {path: _grown_values(operations, sites[path], reads) for path in self.rows}
        for path, rows in self.rows.items():
            self._insert(graph_module, sites[path], tuple(rows), grown[path])

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return a line of the growth history for each site."""
        paths = {site: fresh_path(before, f"{site}_pseudo") for site in self.rows}
        return tuple(
            Growth(
                kind="pseudo-layer",
                site=site,
                parameters=parameter_count(after.get_submodule(paths[site])),
                neurons=len(rows),
                path=paths[site],
                operator=self.operator,
                evidence=self.evidence.get(site),
            )
            for site, rows in self.rows.items()
        )

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return the pseudo-layers that are still there."""
        return inserted_by(graph_module, edit)

    def _insert(
        self, graph_module: fx.GraphModule, site: Site, rows: tuple[int, ...], grown_values: Sequence[fx.Node]
    ) -> None:
        path = fresh_path(graph_module, f"{site.path}_pseudo")
        pseudo_layer = self._build(graph_module, site, rows, path)
        if len(rows) < site.neurons:
            index = torch.tensor(rows, dtype=torch.int64, device=graph_module.get_parameter(site.weight).device)
            pseudo_layer.register_buffer("rows", index)
        add_module(graph_module, path, pseudo_layer)
        insertion = _Insertion(path, site, rows, _Inliner().trace(pseudo_layer), indexed=len(rows) < site.neurons)
        for call, grown in zip(site.calls, grown_values, strict=True):
            insertion.connect(site_input(call) if pseudo_layer.reads == "input" else grown, grown)

    def _build(self, graph_module: fx.GraphModule, site: Site, rows: tuple[int, ...], path: str) -> PseudoLayer:
        operator = find_operator(self.operator)
        salt = int.from_bytes(hashlib.sha256(f"{self.seed}:{path}".encode()).digest()[:7], "big")
        weight = site.rows(graph_module).detach()
        pseudo_layer = operator(
            Attachment(
                map=site.map,
                rows=rows,
                weight=weight,
                bias=graph_module.get_parameter(site.bias).detach() if site.bias else None,
                generator=torch.Generator().manual_seed(salt),
                directions=self.directions.get(site.path) if operator.reads == "input" else None,
            )
        )
        channels = site.map.in_channels if operator.reads == "input" else site.neurons
        extent = site.map.smallest_input if operator.reads == "input" else (1,) * site.map.spatial
        example = torch.linspace(-1.0, 1.0, channels * torch.Size(extent).numel(), dtype=torch.float64)
        check_trainable(pseudo_layer, example.reshape(1, channels, *extent).to(weight))
        return pseudo_layer.train(graph_module.training)


@dataclass(frozen=True)
class _Insertion:
    """One pseudo-layer on its way into the graph, at each call of its site."""

    path: str
    site: Site
    rows: tuple[int, ...]
    trace: fx.Graph
    indexed: bool

    def connect(self, read: fx.Node, grown: fx.Node) -> None:
        """Inline the pseudo-layer behind `grown`, and let everything that read `grown` read the sum."""
        graph, readers = grown.graph, list(grown.users)
        with graph.inserting_after(grown):
            edge = graph.call_function(add_rows)  # holds the place; its arguments follow
        with graph.inserting_before(edge):
            addition = self._inline(graph, read, grown)
            index = graph.get_attr(f"{self.path}.rows") if self.indexed else None
        if index is not None:
            self._sign(index, grown)
        edge.args = (grown, addition, index, self.site.map.channel_dim)
        self._sign(edge, grown, edge=True)
        for reader in readers:
            reader.replace_input_with(grown, edge)

    def _inline(self, graph: fx.Graph, read: fx.Node, grown: fx.Node) -> fx.Node:
        values: dict[fx.Node, fx.Node] = {}
        for node in self.trace.nodes:
            if node.op == "placeholder":
                values[node] = read
            elif node.op != "output":
                values[node] = graph.node_copy(node, lambda argument: values[argument])
                if node.op in ("call_module", "get_attr"):
                    values[node].target = f"{self.path}.{node.target}"
                self._sign(values[node], grown)
        return values[self.trace.output_node().args[0]]  # type: ignore[index]

    def _sign(self, node: fx.Node, grown: fx.Node, *, edge: bool = False) -> None:
        """Say whose node it is, and let it belong to the module that grew, so that blocks stay whole."""
        names = self.path, self.site.path
        mark(node, ResidualEdge(*names, self.rows) if edge else PseudoLayerNode(*names))
        node.meta.pop("nn_module_stack", None)
        if "nn_module_stack" in grown.meta:
            node.meta["nn_module_stack"] = grown.meta["nn_module_stack"]


class _Inliner(fx.Tracer):
    """Traces a pseudo-layer with its own children as leaves, wherever their classes live."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _check_rows(path: str, rows: tuple[int, ...], sites: Mapping[str, Site]) -> None:
    if path not in sites:
        raise PassError(
            "there is no site of this name in the graph", where=path, fix="`fxgrow inspect` lists the sites"
        )
    site = sites[path]
    if site.refusal:
        raise PassError(f"it cannot grow: {site.refusal}", where=path, fix="leave it out")
    if not rows or min(rows) < 0 or max(rows) >= site.neurons:
        raise PassError(f"it has {site.neurons} neurons", where=path, fix=f"choose rows from 0 to {site.neurons - 1}")
    if list(rows) != sorted(set(rows)):
        raise PassError("the rows are not ascending and distinct", where=path, fix="sort the rows")


def _grown_values(operations: Operations, site: Site, reads: str) -> list[fx.Node]:
    """Return the value that grows at each call of a site.

    Raises:
        PassError: If a later operation overwrites it, or what the pseudo-layer reads and needs for its gradients.
    """
    if reads == "input":
        pairs = [(site_input(call), call) for call in site.calls]
    else:
        pairs = [
            (value, value)
            for value in (activation_after(operations.graph_module, call, operations) or call for call in site.calls)
        ]
    for pair in pairs:
        for value in dict.fromkeys(pair):
            refuse_overwritten(operations, value, after=pair[1], where=site.path)
    return [grown for _, grown in pairs]
