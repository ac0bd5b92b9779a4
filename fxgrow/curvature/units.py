"""Units of several rows: attention heads and gated neurons, found in the graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.elementwise import region_after
from fxgrow.graph.activations import elementwise
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.graph.sites import Site, find_sites, site_input
from fxgrow.record.location import module_path

Kind = Literal["head", "gated"]

#: what passes the weights of an attention on to its product with the values
_PASSED_ON = frozenset({"_to_copy", "dropout", "native_dropout", "to", "type_as"})


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The units of one layer: the heads of an attention, or the neurons of a gated layer such as SwiGLU."""

    path: str  #: module path of the layer
    kind: Kind
    sites: tuple[Site, ...]  #: the linear maps that the units are made of
    output: fx.Node  #: holds the units along `unit_dim`
    unit_dim: int  #: counted from the end
    inner: tuple[fx.Node, ...]  #: what lies between the sites' outputs and `output`, itself last, in graph order
    boundary: tuple[fx.Node, ...]  #: whatever else the inner nodes read: masks, position embeddings, norms' weights

    @property
    def inputs(self) -> list[fx.Node]:
        """What the sites read, in their order."""
        return [site_input(site.calls[0]) for site in self.sites]

    def function(self, graph_module: fx.GraphModule) -> Callable[..., Tensor]:
        """Return the function from the sites' outputs and the boundary's values to the units' output."""
        graph = fx.Graph()
        arguments = [*(site.calls[0] for site in self.sites), *self.boundary]
        copies = {node: graph.placeholder(f"value_{index}") for index, node in enumerate(arguments)}
        for node in self.inner:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[self.output])
        return fx.GraphModule(graph_module, graph)


def find_units(graph_module: fx.GraphModule) -> dict[str, UnitGroup]:
    """Return the attentions' heads and the gated layers' neurons, by the layer's module path, in graph order."""
    sites = {call: site for site in find_sites(graph_module).values() for call in site.calls}
    operations, found = operations_of(graph_module), dict[str, UnitGroup]()
    for node in graph_module.graph.nodes:
        kind = _kind(graph_module, node, operations)
        if kind is None:
            continue
        inner, calls, boundary = _behind(node, sites)
        if not calls or (kind == "gated" and not _is_gated(graph_module, calls)):
            continue
        path = module_path(node) or node.name
        path = path if path not in found else f"{path}:{node.name}"
        unit_dim = -3 if kind == "head" else sites[calls[0]].map.channel_dim
        found[path] = UnitGroup(path, kind, tuple(sites[call] for call in calls), node, unit_dim, inner, boundary)
    return found


def rows_of_units(
    group: UnitGroup, graph_module: fx.GraphModule, values: Mapping[fx.Node, Tensor]
) -> list[Tensor] | str:
    """Return which rows of each site belong to which unit, ``(units, rows of one unit)``; or why none can be told.

    With random outputs of the sites, the gradient of ``sum_u u out_u`` by the output of a row is u times that of
    ``sum_u out_u`` if the row reaches unit u only: two backward passes tell the rows of all units apart.

    Args:
        group: The units.
        graph_module: The graph that they are in.
        values: What the sites read, and the boundary's values, in one batch.
    """
    function, generator = group.function(graph_module), torch.Generator().manual_seed(0)
    boundary = [values[node] for node in group.boundary]
    shapes = [site.map(values[x], site.rows(graph_module)) for site, x in zip(group.sites, group.inputs, strict=True)]
    outputs = [torch.randn(s.shape, generator=generator, dtype=torch.float64).to(s).requires_grad_() for s in shapes]
    with torch.enable_grad():
        out = function(*outputs, *boundary)
    if not torch.equal(out, function(*outputs, *boundary)):
        return "dropout is active inside it; call .eval() first"
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    units = out.shape[group.unit_dim]
    numbers = torch.arange(1, units + 1).to(out).view(-1, *[1] * (-1 - group.unit_dim))
    ones = torch.autograd.grad(out, outputs, cotangent, retain_graph=True)
    numbered = torch.autograd.grad(out, outputs, cotangent * numbers)
    rows: list[Tensor] = []
    for site, one, many in zip(group.sites, ones, numbered, strict=True):
        owner = _owners(
            one.movedim(site.map.channel_dim, -1).flatten(0, -2), many.movedim(site.map.channel_dim, -1).flatten(0, -2)
        )
        if owner is None or not bool((torch.bincount(owner, minlength=units) == len(owner) // units).all()):
            return f"the rows of {site.path} do not divide into {units} units of their own"
        rows.append(owner.argsort(stable=True).reshape(units, -1))
    return rows


def _owners(ones: Tensor, numbered: Tensor) -> Tensor | None:
    """Return the unit of each row from gradients ``(positions, rows)``; None where a row reaches several, or none."""
    energy = ones.square().sum(0)
    if not bool((energy > 0).all()):
        return None
    ratio = (numbered * ones).sum(0) / energy
    rest = (numbered - ratio * ones).square().sum(0)
    nearest = ratio.round()
    pure = (rest <= 1e-6 * numbered.square().sum(0)) & ((ratio - nearest).abs() < 1e-2)
    return nearest.long() - 1 if bool(pure.all()) else None


def _kind(graph_module: fx.GraphModule, node: fx.Node, operations: Operations) -> Kind | None:
    calls = operations[node].calls if node.op in ("call_function", "call_method") else frozenset()
    if "scaled_dot_product_attention" in calls:
        return "head"
    arguments = [argument for argument in node.args if isinstance(argument, fx.Node)]
    if len(arguments) != 2:
        return None
    if "matmul" in calls and _is_softmax(operations, arguments[0]):
        return "head"
    if calls == {"mul"} and arguments[0] is not arguments[1]:
        activated = [argument for argument in arguments if elementwise(graph_module, argument, operations)]
        return "gated" if activated else None
    return None


def _is_softmax(operations: Operations, node: fx.Node) -> bool:
    """Whether `node` is a softmax, or passes one on through dropout or a change of type."""
    calls = operations[node].calls
    if {"softmax", "_softmax"} & calls:
        return True
    return calls <= _PASSED_ON and bool(node.all_input_nodes) and _is_softmax(operations, node.all_input_nodes[0])


def _is_gated(graph_module: fx.GraphModule, calls: list[fx.Node]) -> bool:
    """Whether a product of these sites' outputs is a gate: all read one value, and it is no activation of one site."""
    if len({site_input(call) for call in calls}) > 1:
        return False
    return len(calls) > 1 or isinstance(region_after(graph_module, calls[0]), str)


def _asks_for_size(node: fx.Node) -> bool:
    """Whether `node` is a fact about a tensor that does not depend on its numbers, such as ``x.shape``."""
    return node.target is getattr or (node.op == "call_method" and node.target in ("size", "dim", "numel"))


def _behind(
    output: fx.Node, sites: Mapping[fx.Node, Site]
) -> tuple[tuple[fx.Node, ...], list[fx.Node], tuple[fx.Node, ...]]:
    """Walk back from `output` to the nearest sites; return what lies between, their calls, and what else is read."""
    reached: dict[fx.Node, None] = {}
    pending = [output]
    while pending:
        node = pending.pop()
        if node not in reached:
            reached[node] = None
            if node not in sites and not _asks_for_size(node):
                pending.extend(node.all_input_nodes)
    depends: dict[fx.Node, bool] = {}
    ordered = [node for node in output.graph.nodes if node in reached]
    for node in ordered:
        depends[node] = node in sites or any(depends.get(source, False) for source in node.all_input_nodes)
    inner = tuple(node for node in ordered if depends[node] and node not in sites)
    boundary = {source: None for node in inner for source in node.all_input_nodes if not depends[source]}
    return inner, [node for node in ordered if node in sites], tuple(boundary)
