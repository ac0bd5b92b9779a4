"""Residual blocks, found on the graph: neighbouring residual steps, and which of the blocks are alike."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.graph.arrangement import Arrangements
from fxgrow.graph.branch_ends import readers_of_tensors, tensors_read
from fxgrow.graph.declared import reads_only_sizes
from fxgrow.graph.interiors import Interiors, common_path, modules_of
from fxgrow.graph.regions import Region
from fxgrow.graph.residual import Ancestry, ResidualStep, find_steps
from fxgrow.graph.structure import structure_of
from fxgrow.record.location import module_path, name_of
from fxgrow.record.numbering import numbered


@dataclass(frozen=True)
class Block:
    """A run of residual steps: data enters at `entry`, leaves at `exit`, and nothing inside is read outside.

    Blocks of one `kind` are equal but for the values of their weights and their dropout rates.
    """

    path: str  #: of the module it is, where it is one; of its first module otherwise
    steps: tuple[ResidualStep, ...]
    nodes: tuple[fx.Node, ...]  #: in graph order, what reads its parameters and its constants included
    chain: int  #: blocks of one chain follow each other without anything in between
    exit: fx.Node  #: the value that leaves: what the last step makes, arranged as data enters
    kind: str = ""
    refusal: str | None = None  #: why it can neither be copied nor left out

    @property
    def entry(self) -> fx.Node:
        """The value that enters."""
        return self.steps[0].entry


def find_blocks(graph_module: fx.GraphModule) -> tuple[Block, ...]:
    """Return the residual blocks of a graph, in order: none lies inside another one.

    Steps belong to one block where their modules lie in one numbered container (``blocks.3``, ``layer1.0``), and each
    makes a block of its own where the model has no such containers. Of blocks inside blocks, those stay that have
    others of their kind, the outer ones before the inner.
    """
    finder = _Finder(graph_module)
    blocks = [block for index, chain in enumerate(finder.chains()) for block in finder.blocks_of(index, chain)]
    return tuple(_without_nested(graph_module, blocks))


def runs(blocks: Iterable[Block]) -> list[tuple[Block, ...]]:
    """Group blocks that are alike and stand in one chain, in order; those with a refusal are left out."""
    groups: dict[tuple[int, str], list[Block]] = defaultdict(list)
    for block in blocks:
        if block.refusal is None:
            groups[block.chain, block.kind].append(block)
    return [tuple(group) for group in groups.values()]


def steps_between(graph_module: fx.GraphModule, region: Region) -> tuple[ResidualStep, ...]:
    """Return the residual steps that a region is made of, in order.

    Raises:
        PassError: If it is not made of such steps, or arranges anew what it passes on.
    """
    found, passed = list[ResidualStep](), list[fx.Node]()
    steps, arrangements, value = find_steps(graph_module), Arrangements(graph_module), region.exit
    while value is not region.entry:
        step = steps.get(value) if value in region.nodes else None
        if step is not None:
            found.insert(0, step)
            value = step.entry
        elif arrangements.passes_on(value):
            passed.insert(0, value)
            value = value.all_input_nodes[0]
        else:
            what = f"it is not residual: {name_of(value)} is not the sum of a value and what is computed from it"
            raise PassError(what, where=region.path, fix="name a block that adds to its input")
    if not arrangements.restore(region.entry, passed):
        raise PassError(_REARRANGED, where=region.path, fix="name a block that gives back what enters in its order")
    return tuple(found)


_REARRANGED = "what leaves it is arranged in another way than what enters"


class _Finder:
    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        ancestry = Ancestry(graph_module.graph)
        self.interiors = Interiors(graph_module, ancestry)
        self.steps, self.arrangements = find_steps(graph_module, ancestry), Arrangements(graph_module)

    def chains(self) -> list[list[ResidualStep]]:
        """Return the steps in chains, each of which begins where the one before it ends."""
        chains: dict[fx.Node, list[ResidualStep]] = {}  # by the exit of the last step
        for step in self.steps.values():
            chains[step.exit] = [*chains.pop(self.arrangements.source_of(step.entry), []), step]
        return list(chains.values())

    def blocks_of(self, index: int, chain: Sequence[ResidualStep]) -> list[Block]:
        """Group the steps of a chain at the outermost numbered containers at which blocks repeat."""
        paths = [common_path(modules_of(self.interior([step]))) for step in chain]
        deepest = max(len(_numbers(path)) for path in paths)
        blocks: list[Block] = []
        for level in range(1, max(deepest, 1) + 1):
            blocks = [self._block(index, group, path) for path, group in _grouped(chain, paths, level)]
            kinds = [block.kind for block in blocks]
            if len(set(kinds)) < len(kinds):
                break
        return blocks

    def _block(self, chain: int, steps: Sequence[ResidualStep], path: str) -> Block:
        nodes, leaves = self.interior(steps), self._exit(steps)
        named = self._around(steps, path) or next(iter(modules_of(nodes)), leaves.name)
        block = Block(named, tuple(steps), nodes, chain, leaves)
        kind = hashlib.sha256(repr(structure_of(self.graph_module, nodes, steps[0].entry)).encode()).hexdigest()[:16]
        return replace(block, kind=kind, refusal=self._refusal(block))

    def _around(self, steps: Sequence[ResidualStep], path: str) -> str:
        """Return the path of the module that makes the sums, where it is around these modules and no others."""
        owners = {module_path(step.total) for step in steps}
        owner = next(iter(owners)) if len(owners) == 1 else ""
        own = [step for step in self.steps.values() if f"{module_path(step.total)}.".startswith(f"{owner}.")]
        return owner if owner and path.startswith(f"{owner}.") and len(own) == len(steps) else path

    def interior(self, steps: Sequence[ResidualStep]) -> tuple[fx.Node, ...]:
        """Return the nodes of some steps."""
        return self.interiors.between(steps[0].entry, self._exit(steps))

    def _exit(self, steps: Sequence[ResidualStep]) -> fx.Node:
        """Return what leaves the last step, arranged as data enters the first where the graph does that next."""
        value = steps[-1].exit
        while not self._in_order(steps, value):
            readers = [user for user in value.users if not reads_only_sizes(user)]
            if len(readers) != 1 or not self.arrangements.passes_on(readers[0]):
                return steps[-1].exit
            value = readers[0]
        return value

    def _in_order(self, steps: Sequence[ResidualStep], leaves: fx.Node) -> bool:
        """Say whether what leaves some steps is arranged as what enters them."""
        ends = [*(step.entry for step in steps[1:]), leaves]
        pairs = zip(steps, ends, strict=True)
        passed = [node for step, end in pairs for node in self.arrangements.way(step.exit, end)]
        return self.arrangements.restore(steps[0].entry, passed)

    @cached_property
    def _readers(self) -> dict[int, list[fx.Node]]:
        return readers_of_tensors(self.graph_module)

    def _refusal(self, block: Block) -> str | None:
        inside = set(block.nodes)
        if not self._in_order(block.steps, block.exit):
            return _REARRANGED
        for node in block.nodes:
            if node is not block.exit and any(user not in inside for user in node.users):
                return f"{node.name} inside it is read outside"
            for tensor in tensors_read(self.graph_module, node):
                foreign = [reader for reader in self._readers[id(tensor)] if reader not in inside]
                if foreign and isinstance(tensor, nn.Parameter):
                    return f"it shares weights with {foreign[0].target}"
        return None


def _without_nested(graph_module: fx.GraphModule, blocks: Sequence[Block]) -> Iterator[Block]:
    repeated = {id(block) for run in runs(blocks) if len(run) > 1 for block in run}
    order = sorted(blocks, key=lambda block: (id(block) not in repeated, -len(block.nodes)))
    taken: set[fx.Node] = set()
    kept = []
    for block in order:
        if taken.isdisjoint(block.nodes):
            taken.update(block.nodes)
            kept.append(block)
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    yield from sorted(kept, key=lambda block: position[block.exit])


def _grouped(
    chain: Sequence[ResidualStep], paths: Sequence[list[str]], level: int
) -> Iterator[tuple[str, list[ResidualStep]]]:
    """Yield neighbouring steps that lie in one container, with its path; without a container, each by itself."""
    group: list[ResidualStep] = []
    for index, step in enumerate(chain):
        group.append(step)
        here = _container(paths[index], level)
        if here is None or index + 1 == len(chain) or _container(paths[index + 1], level) != here:
            yield here or ".".join(paths[index]), group
            group = []


def _container(path: Sequence[str], level: int) -> str | None:
    numbers = _numbers(path)
    return ".".join(path[: numbers[min(level, len(numbers)) - 1] + 1]) if numbers else None


def _numbers(path: Sequence[str]) -> list[int]:
    return [index for index, part in enumerate(path) if numbered(part)]
