"""Merge branches: make one pseudo-layer, with one matrix product, of those beside each other at a site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.activations import elementwise
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.graph.sites import Site, find_sites, site_input
from fxgrow.operators.base import set_rows
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.primitives.residual import add_rows
from fxgrow.record.lineage import Lineage, Moments
from fxgrow.record.provenance import Provenance, PseudoLayerNode, ResidualEdge, edge_of, mark, part_of, provenance_of
from fxgrow.record.record import Growth, revise_growths


@dataclass(frozen=True)
class MergeBranches(Pass):
    """Merge the pseudo-layers of one kind that read one site's input beside each other into the oldest of them.

    Rewrites:
        ``o + P1(x) + P2(x)``, on rows K1 and K2, becomes ``o + P(x)``: the rows of P's maps and gates are those of
        both, one after the other, and its residual edge goes to K1 and K2. One matrix product in place of several, for
        `branch` and `gated`; two for `signed`, and for `paper`: run `fold-pairs` first.

    Leaves alone:
        Pseudo-layers of different kinds, those inside of which something grew, those that read the site's output
        (`serial`), and those between whose residual edges another value is read.

    Preserves:
        The function, up to the order of summation. An optimizer's moments go along; where the steps counted so far
        differ, the larger number holds. Single growth events among those that were merged can be undone no more.
    """

    name: ClassVar[str] = "merge-branches"
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Merge at every site where there is something to merge."""
        for merge in _merges(graph_module):
            merge.build(graph_module)
            for chain in merge.chains:
                merge.connect(graph_module.graph, chain)
            revise_growths(graph_module, merge.revised)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return nothing: what was merged is undone with the pseudo-layers."""
        return ()

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Let each merged parameter have the moments of its parts, one after the other."""
        return {
            f"{merge.oldest}.{name}": Lineage(tuple(f"{path}.{name}" for path in merge.paths), joined)
            for merge in _merges(before)
            for name, joined in merge.parts(before).items()
        }


@dataclass(frozen=True)
class _Merge:
    """Pseudo-layers of one site that become one, the oldest first, and their residual edges at each call, in order."""

    site: Site
    paths: tuple[str, ...]
    chains: tuple[tuple[fx.Node, ...], ...]

    @property
    def oldest(self) -> str:
        return self.paths[0]

    def parts(self, graph_module: fx.GraphModule) -> dict[str, Moments]:
        """Return how the parts of each parameter are joined, by the parameter's name in the pseudo-layer."""
        joined: dict[str, Moments] = {}
        for name, _ in graph_module.get_submodule(self.oldest).named_parameters():
            child, _, kind = name.rpartition(".")
            if kind == "weight":
                modules = [graph_module.get_submodule(f"{path}.{child}") for path in self.paths]
                joined[name] = _join_weights([LinearMap.of_module(module) for module in modules])
            else:
                joined[name] = _concatenate
        return joined

    def build(self, graph_module: fx.GraphModule) -> None:
        """Put the merged modules, gates and indices in the place of the oldest pseudo-layer's."""
        holders = [graph_module.get_submodule(path) for path in self.paths]
        for name, child in list(holders[0].named_children()):
            if next(child.parameters(), None) is not None:
                setattr(holders[0], name, _joined_map([holder.get_submodule(name) for holder in holders]))
        for name, _ in list(holders[0].named_parameters(recurse=False)):
            joined = torch.cat([holder.get_parameter(name).detach() for holder in holders])
            setattr(holders[0], name, nn.Parameter(joined))
        if "channels" in dict(holders[0].named_buffers(recurse=False)):
            holders[0].register_buffer("channels", torch.cat([holder.get_buffer("channels") for holder in holders]))
        rows = torch.tensor(self._rows(), dtype=torch.int64, device=graph_module.get_parameter(self.site.weight).device)
        holders[0].register_buffer("rows", rows)
        for path in self.paths[1:]:
            parent, _, name = path.rpartition(".")
            delattr(graph_module.get_submodule(parent), name)

    def connect(self, graph: fx.Graph, chain: tuple[fx.Node, ...]) -> None:
        """Let the oldest edge of a call carry all rows, and drop the others with what they added."""
        edges = {_layer(edge): edge for edge in chain}
        kept = edges[self.oldest]
        start, addition = chain[0].args[0], kept.args[1]
        assert isinstance(start, fx.Node)
        if kept is not chain[-1]:
            chain[-1].replace_all_uses_with(kept)
        index = kept.args[2]
        if index is None:
            with graph.inserting_before(kept):
                index = graph.get_attr(f"{self.oldest}.rows")
            mark(index, PseudoLayerNode(self.oldest, self.site.path))
        kept.args = (start, addition, index, kept.args[3])
        edits = sorted({edit for edge in edges.values() for edit in _made(edge).edits})
        mark(kept, replace(_edge(kept), rows=self._rows(), merged=tuple(edits)))
        for node in reversed(graph.nodes):
            part = part_of(node)
            if part is None:
                continue
            if part.path in self.paths[1:] and node is not kept and not node.users:
                graph.erase_node(node)
            elif part.path == self.oldest:  # the number of its channels has changed
                for key in ("tensor_meta", "type"):
                    node.meta.pop(key, None)

    def revised(self, line: Growth) -> Growth:
        """Let the history name the pseudo-layer that is left."""
        return replace(line, path=self.oldest) if line.path in self.paths else line

    def _rows(self) -> tuple[int, ...]:
        edges = {_layer(edge): edge for edge in self.chains[0]}
        return tuple(row for path in self.paths for row in _edge(edges[path]).rows or ())


def _merges(graph_module: fx.GraphModule) -> list[_Merge]:
    merges = []
    for site in find_sites(graph_module).values():
        runs = [_runs(graph_module, call) for call in site.calls]
        named = [[[_layer(edge) for edge in run] for run in found] for found in runs]
        if any(found != named[0] for found in named):  # one call has something in between that another has not
            continue
        for chains in zip(*runs, strict=True):
            ordered = sorted(chains[0], key=lambda edge: (_made(edge).edit, _layer(edge)))
            merges.append(_Merge(site, tuple(_layer(edge) for edge in ordered), chains))
    return merges


def _runs(graph_module: fx.GraphModule, call: fx.Node) -> list[tuple[fx.Node, ...]]:
    """Return the runs of residual edges behind a call whose pseudo-layers are alike, each of two or more."""
    runs: list[list[fx.Node]] = [[]]
    kind, edge = None, _edge_on(call)
    while edge is not None:
        found = _kind(graph_module, edge, site_input(call))
        single = len(runs[-1]) == 0 or len(runs[-1][-1].users) == 1
        if found is None or found != kind or not single:
            runs.append([])
        if found is not None:
            runs[-1].append(edge)
        kind, edge = found, _edge_on(edge)
    return [tuple(run) for run in runs if len(run) > 1]


def _edge_on(value: fx.Node) -> fx.Node | None:
    for user in value.users:
        made = edge_of(user)
        if made is not None and made.rows is not None and user.target is add_rows and user.args[0] is value:
            return user
    return None


def _made(edge: fx.Node) -> Provenance:
    made = provenance_of(edge)
    assert made is not None
    return made


def _edge(node: fx.Node) -> ResidualEdge:
    edge = edge_of(node)
    assert edge is not None
    return edge


def _layer(edge: fx.Node) -> str:
    return _edge(edge).path


def _kind(graph_module: fx.GraphModule, edge: fx.Node, read: fx.Node) -> object:
    """Spell what a pseudo-layer computes, apart from its weights; None if its rows do not stand for themselves."""
    path = _layer(edge)
    found: set[fx.Node] = set()
    pending = [value for value in edge.args[1:2] if isinstance(value, fx.Node)]
    while pending:  # all that the addition is computed from, up to the site's input
        node = pending.pop()
        if node is read or node in found:
            continue
        part = part_of(node)
        if part is None or part.path != path:
            return None
        found.add(node)
        pending.extend(node.all_input_nodes)
    position = {node: number for number, node in enumerate(sorted(found))}
    inside = {edge, *position}
    if any(user not in inside for node in position for user in node.users) or not position:
        return None
    operations = operations_of(graph_module)
    spelled = [_spell(graph_module, operations, node, edge, read, position) for node in position]
    return None if None in spelled else (spelled, edge.args[3])


def _spell(
    graph_module: fx.GraphModule,
    operations: Operations,
    node: fx.Node,
    edge: fx.Node,
    read: fx.Node,
    position: dict[fx.Node, int],
) -> object:
    path = _layer(edge)
    arguments = [position.get(value, -1) for value in node.all_input_nodes]
    relative = str(node.target).removeprefix(path) if node.op in ("call_module", "get_attr") else node.target
    if node.op == "call_module" and elementwise(graph_module, node, operations) is None:
        module = graph_module.get_submodule(str(node.target))
        (value,) = node.all_input_nodes
        gathered = value.op == "call_method" and value.target == "index_select" and value.args[0] is read
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not (value is read or gathered):
            return None
        linear = replace(LinearMap.of_module(module), neurons=0, in_channels=0, groups=int(gathered))
        return relative, linear, module.bias is None, arguments
    if node.op == "get_attr":
        value, rows = fetch_attribute(graph_module, str(node.target)), len(_edge(edge).rows or ())
        plain = relative == ".channels" or (isinstance(value, nn.Parameter) and value.shape[:1] == (rows,))
    else:
        plain = node.op == "call_module" or operations[node].pointwise or node.target == "index_select"
    return (relative, arguments) if plain else None


def _joined_map(modules: Sequence[nn.Module]) -> nn.Module:
    maps = [LinearMap.of_module(module) for module in modules]
    weights = [module.get_parameter("weight").detach() for module in modules]
    bias = modules[0]._parameters.get("bias") is not None
    total = sum(linear.neurons for linear in maps)
    joined = maps[0].build(total, weight=weights[0], bias=bias, gathered=maps[0].groups > 1)
    biases = torch.cat([module.get_parameter("bias").detach() for module in modules]) if bias else 0.0
    set_rows(joined, _join_weights(maps)(weights, 1), biases)
    return joined.train(modules[0].training)


def _join_weights(maps: Sequence[LinearMap]) -> Moments:
    total = sum(linear.neurons for linear in maps)
    gathered = maps[0].groups > 1
    joined = replace(
        maps[0],
        neurons=total,
        in_channels=sum(linear.in_channels for linear in maps) if gathered else maps[0].in_channels,
        groups=total if gathered else 1,
    )

    def join(weights: Sequence[Tensor], order: int) -> Tensor:
        rows = torch.cat([linear.to_rows(weight) for linear, weight in zip(maps, weights, strict=True)])
        return joined.to_weight(rows).contiguous()

    return join


def _concatenate(moments: Sequence[Tensor], order: int) -> Tensor:
    return torch.cat(list(moments))
