"""The blocks of a model as plain data: what of it can be left out, and what its weights correspond to in others."""

from collections import defaultdict
from dataclasses import dataclass, field

import torch.fx as fx
from torch import nn

from fxgrow.errors import PlanError
from fxgrow.graph.blocks import Block, find_blocks, runs
from fxgrow.graph.branch_ends import BranchEnds
from fxgrow.primitives.modules import fetch_attribute


@dataclass(frozen=True)
class Part:
    """A block that can be left out. Nodes are places in the graph, so that copies of the graph have the same parts."""

    path: str
    run: int  #: parts of one run take over each other's weights
    entry: int
    exit: int
    nodes: tuple[int, ...]
    tensors: tuple[str, ...]  #: its parameters and running statistics, in an order that all parts of its run share
    ends: tuple[str, ...]  #: of them, the parameters whose scale is the scale of its residual branches


@dataclass(frozen=True)
class Parts:
    """All parts of a model in order, and why other blocks always run."""

    parts: tuple[Part, ...]
    reasons: dict[str, str] = field(default_factory=dict)

    def runs(self) -> list[list[int]]:
        """Return the indices of the parts, run by run."""
        found: dict[int, list[int]] = defaultdict(list)
        for index, part in enumerate(self.parts):
            found[part.run].append(index)
        return list(found.values())

    def index_of(self, path: str) -> int:
        """Return the index of the part at a module path.

        Raises:
            PlanError: If there is none.
        """
        for index, part in enumerate(self.parts):
            if part.path == path:
                return index
        what = self.reasons.get(path, "no block of this name can be left out")
        raise PlanError(what, where=path, fix=f"choose among {', '.join(part.path for part in self.parts)}")


def find_parts(graph_module: fx.GraphModule) -> Parts:
    """Return the blocks that have others of their kind beside them, and branches that can be halved."""
    place = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    ends = BranchEnds(graph_module)
    blocks = find_blocks(graph_module)
    reasons = {block.path: block.refusal for block in blocks if block.refusal}
    parts = []
    for index, run in enumerate(runs(blocks)):
        why = _reason(run, ends)
        if why is not None:
            reasons.update(dict.fromkeys((block.path for block in run), why))
            continue
        for block in run:
            scaled = tuple(n for s in block.steps for b in s.branches for end in ends.of(b) for n in end.parameters)
            nodes = tuple(place[node] for node in block.nodes)
            tensors = _tensors(graph_module, block)
            parts.append(Part(block.path, index, place[block.entry], place[block.exit], nodes, tensors, scaled))
    return Parts(tuple(sorted(parts, key=lambda part: part.exit)), reasons)


def _reason(run: tuple[Block, ...], ends: BranchEnds) -> str | None:
    """Say why the blocks of a run must all run, if they must."""
    if len(run) == 1:
        return "no other block in its row is of its kind"
    for step in run[0].steps:
        for branch in step.branches:
            found = ends.of(branch)
            if not found:
                return "a residual branch ends in neither a linear map of its own nor in a norm or a scale"
            if not all(end.linear for end in found):
                return "a gate that is computed from its last linear map multiplies a residual branch"
    return None


def _tensors(graph_module: fx.GraphModule, block: Block) -> tuple[str, ...]:
    """Return the names of what a block learns; other buffers may depend on where it stands, and are its own."""
    names: dict[str, None] = {}
    for node in block.nodes:
        target = str(node.target)
        if node.op == "call_module":
            module = graph_module.get_submodule(target)
            learnt = [name for name, _ in module.named_parameters()]
            for path, inner in module.named_modules():
                if isinstance(inner, nn.modules.batchnorm._NormBase):
                    learnt += [f"{path}.{name}".lstrip(".") for name, b in inner._buffers.items() if b is not None]
            names.update(dict.fromkeys(f"{target}.{name}" for name in learnt))
        elif node.op == "get_attr" and isinstance(fetch_attribute(graph_module, target), nn.Parameter):
            names[target] = None
    return tuple(names)
