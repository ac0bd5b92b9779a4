"""Copies of blocks behind their originals: what passes that deepen a model have in common."""

import operator
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.graph.branch_ends import BranchEnds
from fxgrow.graph.memory import refuse_overwritten
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import operations_of
from fxgrow.graph.regions import Region
from fxgrow.graph.residual import ResidualStep
from fxgrow.passes.add_residual_edge import channel_dim_of
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion, inserted_by
from fxgrow.primitives.copying import deep_copy
from fxgrow.primitives.modules import fetch_attribute, resolves
from fxgrow.primitives.residual import add_rows
from fxgrow.record.annotations import annotate
from fxgrow.record.lineage import Lineage
from fxgrow.record.location import name_of
from fxgrow.record.numbering import numbered
from fxgrow.record.provenance import BlockNode, PseudoLayerNode, ResidualEdge, mark, part_of, provenance_of
from fxgrow.record.record import Growth


@dataclass(frozen=True)
class CopyBlocks(Pass):
    """A pass that puts a copy of each of some blocks behind it."""

    idempotent: ClassVar[bool] = False

    @property
    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """Module paths of the blocks, in the order in which they are copied."""

    def copies(self, before: fx.GraphModule) -> dict[str, str]:
        """Return the path of each block by that of its copy."""
        copies: dict[str, str] = {}
        for path in self.paths:
            copies[next_path(before, path, copies)] = path
        return copies

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Let each new parameter join the group of the one that it was copied from, without any state."""
        found: dict[str, Lineage] = {}
        for copied, block in self.copies(before).items():
            names = parameters_within(before, block)
            found |= {copied + name.removeprefix(block): Lineage((name,)) for name in names}
            vectors = [name for name in names if before.get_parameter(name).dim() < 2]
            found[f"{copied}_gate"] = Lineage((*vectors[:1], *names[:1]))
        return found

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return a line of the growth history for each copy."""
        sizes = {name: parameter.numel() for name, parameter in after.named_parameters()}
        return tuple(
            Growth(
                kind="block",
                site=block,
                parameters=sum(size for name, size in sizes.items() if _of_copy(name, copied)),
                path=copied,
            )
            for copied, block in self.copies(before).items()
        )

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...] | None:
        """Return the copies that are still there."""
        return inserted_by(graph_module, edit)


class BlockCopy:
    """A block and its copy on the way into the graph.

    Args:
        graph_module: The graph.
        region: The block.
        path: Module path of the copy.
        stand_ins: Values that the copy reads, or their copies, in the place of others.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        region: Region,
        path: str,
        stand_ins: Mapping[fx.Node, fx.Node] = MappingProxyType({}),
    ) -> None:
        self.graph_module, self.region, self.path, self.stand_ins = graph_module, region, path, stand_ins
        self.memo: dict[int, Any] = {}
        self.values: dict[fx.Node, fx.Node] = {}  #: the nodes of the copy by those of the block

    def connect(self, *, gated: bool) -> None:
        """Copy the nodes behind the block; whoever read the block reads the copy.

        Raises:
            PassError: If the block overwrites what enters it, which a copy of it does not only read.
        """
        operations, enters = operations_of(self.graph_module), self.region.entry
        refuse_overwritten(operations, enters, after=enters, where=self.region.path, by=self.region.nodes)
        graph, entry = self.graph_module.graph, self.region.exit
        readers = [user for user in entry.users if user not in set(self.region.nodes)]
        values = self.values = {self.region.entry: entry}
        place = entry
        for node in sorted(self.region.nodes, key=lambda node: node.op != "call_module"):
            self._copy_state(node)  # modules first, or a weight that is read by itself would stand in a bare container
        for node in self.region.nodes:
            with graph.inserting_after(place):
                place = values[node] = graph.node_copy(node, self._copied)
            for known in ("tensor_meta", "type"):  # behind a block a value may have a gradient that it had not before
                place.meta.pop(known, None)
            self._sign(place, node, part_of(node))
        last = values[self.region.exit]
        first = next(values[node] for node in self.region.nodes if self.region.entry in node.all_input_nodes)
        _mark(first, entry=first.all_input_nodes.index(entry))
        if gated:
            last = self._gate(entry, last)
        _mark(last, exit=True)
        for reader in readers:
            reader.replace_input_with(entry, last)

    def _copied(self, value: fx.Node) -> fx.Node:
        value = self.stand_ins.get(value, value)
        return self.values.get(value, value)

    def mark(self, original: fx.Node, **fields: Any) -> None:
        """Write more on the copy of a node about its place in the block."""
        _mark(self.values[original], **fields)

    def scale(self, names: Iterable[str], factor: float) -> None:
        """Scale what the copy has in place of these parameters of the block."""
        with torch.no_grad():
            for name in set(names):
                value = self.graph_module.get_parameter(self.renamed(name))
                value.copy_(value * factor if factor else torch.zeros_like(value))

    def _gate(self, entry: fx.Node, last: fx.Node) -> fx.Node:
        shape = shape_of(entry)
        if shape is None:
            fix = "trace the model with fxgrow.trace, or run fxgrow.execution.shapes.propagate_shapes"
            raise PassError("the shape of its output is not known", where=self.region.path, fix=fix)
        channel_dim = channel_dim_of(self.graph_module, entry)
        like = next(self.graph_module.get_submodule("").parameters())
        value = torch.zeros(shape[channel_dim], *[1] * (-1 - channel_dim), dtype=like.dtype, device=like.device)
        _attach(self.graph_module, f"{self.path}_gate", nn.Parameter(value))
        graph = self.graph_module.graph
        with graph.inserting_after(last):
            gate = graph.get_attr(f"{self.path}_gate")
        with graph.inserting_after(gate):
            product = graph.call_function(operator.mul, (last, gate))
        with graph.inserting_after(product):
            total = graph.call_function(add_rows, (entry, product, None, channel_dim))
        for node in (gate, product, total):
            self._sign(node, self.region.exit, None)
        return total

    def _copy_state(self, node: fx.Node) -> None:
        """Copy what a node calls or reads of the block, and let weights that are tied inside it stay tied."""
        target = str(node.target)
        if node.op == "call_module" and not _within(target, self.region.path):
            fix = "name a block that calls only modules of its own"
            raise PassError(f"it calls {target}, which is not a part of it", where=self.region.path, fix=fix)
        if node.op not in ("call_module", "get_attr") or not _within(target, self.region.path):
            return
        path = self.renamed(target)
        if not resolves(self.graph_module, path):
            _attach(self.graph_module, path, deep_copy(fetch_attribute(self.graph_module, target), self.memo))
            parts = path.split(".")
            for length in range(self.path.count(".") + 1, len(parts)):
                here = ".".join(parts[:length])
                there = (self.region.path + here.removeprefix(self.path)).lstrip(".")
                here_module, there_module = (self.graph_module.get_submodule(part) for part in (here, there))
                here_module.training = there_module.training

    def renamed(self, path: str) -> str:
        """Return where the copy has what the block has at a path; what is no part of the block is shared."""
        if not _within(path, self.region.path):
            return path
        return f"{self.path}.{path.removeprefix(self.region.path).lstrip('.')}".rstrip(".")

    def _sign(self, node: fx.Node, original: fx.Node, part: PseudoLayerNode | ResidualEdge | None) -> None:
        """Say whose node it is; what belonged to the block belongs to the copy."""
        if node.op in ("call_module", "get_attr"):
            node.target = self.renamed(str(node.target))
        made = provenance_of(node)
        repeats = made.block.repeats if made and made.block else ()
        renamed = tuple(replace(one, site=self.renamed(one.site), copy=self.renamed(one.copy)) for one in repeats)
        annotate(node, scores=None, provenance=None)
        mark(node, BlockNode(self.path, repeats=renamed))
        if part is not None:
            mark(node, replace(part, path=self.renamed(part.path), site=self.renamed(part.site)))
        stack = original.meta.get("nn_module_stack", {})
        node.meta["nn_module_stack"] = {
            self.renamed(key): (self.renamed(path), kind) for key, (path, kind) in stack.items()
        }


def _mark(node: fx.Node, **fields: Any) -> None:
    made = provenance_of(node)
    assert made is not None
    assert made.block is not None
    mark(node, replace(made.block, **fields))


def next_path(graph_module: fx.GraphModule, path: str, taken: Collection[str] = ()) -> str:
    """Return the next free number beside a numbered block, or ``<path>_copy_<index>`` beside another one."""
    parent, _, name = path.rpartition(".")
    stem, number = numbered(name) or (f"{name}_copy_", 0)
    place = f"{parent}.{stem}".lstrip(".")
    while resolves(graph_module, f"{place}{number}") or f"{place}{number}" in taken:
        number += 1
    return f"{place}{number}"


def ends_of(
    graph_module: fx.GraphModule, region: Region, steps: Iterable[ResidualStep], *, linear: bool
) -> tuple[str, ...]:
    """Return the parameters at the ends of a block's residual branches, which scale them.

    Args:
        graph_module: The graph.
        region: The block.
        steps: Its residual steps.
        linear: Whether the branches must be linear in them, or only be zero where they are.

    Raises:
        PassError: If a branch has no such end.
    """
    ends = BranchEnds(graph_module)
    found: list[str] = []
    for step in steps:
        for branch in step.branches:
            own = ends.of(branch)
            fix = "name another block"
            if not own or not all(_within(name, region.path) for end in own for name in end.parameters):
                shared = _shared(graph_module, ends, region)
                if shared is not None:
                    raise PassError(f"{shared} is read by several operations", where=region.path, fix=fix)
                what = f"its residual branch {name_of(branch)} ends in no linear map, norm or scale of its own"
                raise PassError(what, where=region.path, fix=fix)
            if linear and not all(end.linear for end in own):
                what = f"a gate that is computed from its last linear map multiplies {name_of(branch)}"
                raise PassError(what, where=region.path, fix=f"{fix}, or use zero-output copies")
            found += [name for end in own for name in end.parameters]
    return tuple(found)


def _shared(graph_module: fx.GraphModule, ends: BranchEnds, region: Region) -> str | None:
    """Return a parameter of a block that more than one operation reads, if there is one."""
    names = parameters_within(graph_module, region.path)
    return next((name for name in names if len(ends.readers[id(graph_module.get_parameter(name))]) > 1), None)


def parameters_within(graph_module: fx.GraphModule, *blocks: str) -> list[str]:
    """Return the names of all parameters of some blocks."""
    names = (name for name, _ in graph_module.named_parameters(remove_duplicate=False))
    return [name for name in names if any(_within(name, block) for block in blocks)]


def _within(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _of_copy(name: str, copied: str) -> bool:
    return _within(name, copied) or name == f"{copied}_gate"


def _attach(graph_module: fx.GraphModule, path: str, value: Any) -> None:
    """Attach a module, a parameter or a buffer at a path that nothing uses yet, creating containers on the way."""
    *containers, name = path.split(".")
    parent: nn.Module = graph_module
    for container in containers:
        if not hasattr(parent, container):
            parent.add_module(container, nn.Module())
        parent = parent.get_submodule(container)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        parent.register_buffer(name, value)
    else:
        setattr(parent, name, value)
