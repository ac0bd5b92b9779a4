"""What growing does to the blocks of a state, for all seeds at once.

The half-steps follow Chang et al., ICLR 2018 (arXiv 1710.10348): x + f(x) becomes y = x + f(x)/2, y + f(y)/2, so the
last map of each branch is halved in the block and in its copy. ``fxgrow.deepen`` does the same to a graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from study.networks import Architecture, Shape
from study.state import Leaf, Leaves, State, fresh_block

Change = Callable[[str, Leaf], Leaf]


@dataclass(frozen=True)
class Site:
    """Where a rewrite happens: what it may need beside the state."""

    architecture: Architecture
    seeds: tuple[int, ...]
    step: int
    probe: Callable[[], tuple[Tensor, Tensor]]  #: draws training data for all seeds, which no step has seen as a batch


class Rewrite(Protocol):
    """A change of the architecture, declared as data."""

    def __call__(self, state: State, site: Site) -> State:
        """Return the grown state."""
        ...


@dataclass(frozen=True)
class HalfSteps:
    """Each block becomes two half-steps; ``blocks`` chooses some, ``moments`` says what both halves remember."""

    blocks: tuple[int, ...] | None = None
    moments: str = "fresh"  #: or "copied", or "scaled": by 1/2 and 1/4 where the gradient is halved

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with a copy behind each chosen block, last maps halved in both."""
        return _with_copies(state, self.blocks, self._half, self._half)

    def _half(self, name: str, leaf: Leaf) -> Leaf:
        last = is_last(name)
        value = leaf.value / 2 if last else leaf.value.clone()
        if self.moments == "fresh":
            return Leaf.fresh(value)
        scale = 0.5 if self.moments == "scaled" and not last else 1.0
        return replace(leaf, value=value, mean=leaf.mean * scale, square=leaf.square * scale**2)


@dataclass(frozen=True)
class Copies:
    """Behind each block a copy whose last maps are multiplied by ``scale``.

    0 keeps the function: ``fxgrow.insert_block``.
    """

    blocks: tuple[int, ...] | None = None
    scale: float = 0.0
    moments: str = "kept"  #: the original's: "kept" or "fresh"; the copy's are fresh

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with the copies."""
        return _with_copies(state, self.blocks, self._original, self._copy)

    def _original(self, name: str, leaf: Leaf) -> Leaf:
        return leaf if self.moments == "kept" else Leaf.fresh(leaf.value)

    def _copy(self, name: str, leaf: Leaf) -> Leaf:
        return Leaf.fresh(leaf.value * self.scale if is_last(name) else leaf.value.clone())


@dataclass(frozen=True)
class Stack:
    """The whole stack of blocks once more behind itself, as it is: Du et al., NeurIPS 2024 (arXiv 2405.15319)."""

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with twice the blocks; all of them begin with fresh moments."""
        copied = state.map(torch.Tensor.clone)
        blocks = tuple(anew(block) for block in (*state.blocks, *copied.blocks))
        return replace(state, shapes=state.shapes * 2, blocks=blocks)


@dataclass(frozen=True)
class FreshBlocks:
    """Behind each block a randomly drawn one, its last maps multiplied by ``scale``."""

    scale: float = 0.0

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with the new blocks; the old ones keep their moments."""
        blocks: list[Leaves] = []
        for index, (shape, block) in enumerate(zip(state.shapes, state.blocks, strict=True)):
            new = fresh_block(site.architecture, shape, site.seeds, f"fresh.{site.step}.{index}")
            scaled = {n: Leaf.fresh(leaf.value * self.scale) if is_last(n) else leaf for n, leaf in new.items()}
            blocks += [block, scaled]
        return replace(state, shapes=_doubled(state.shapes, range(len(state.blocks))), blocks=tuple(blocks))


@dataclass(frozen=True)
class Widen:
    """Each MLP gets ``hidden`` units more.

    ``how`` is "zero" (random incoming, zero outgoing weights) or "pairs" (a new unit is drawn twice, with opposite
    outgoing weights). Both keep the function.
    """

    hidden: int
    how: str = "zero"

    def __call__(self, state: State, site: Site) -> State:
        """Return the widened state; old units keep their moments."""
        shapes = tuple(replace(shape, hidden=shape.hidden + self.hidden) for shape in state.shapes)
        blocks = tuple(self._wider(block, index, site) for index, block in enumerate(state.blocks))
        return replace(state, shapes=shapes, blocks=blocks)

    def _wider(self, block: Leaves, index: int, site: Site) -> Leaves:
        drawn = self.hidden if self.how == "zero" else self.hidden // 2
        new = fresh_block(site.architecture, Shape(hidden=drawn), site.seeds, f"widen.{site.step}.{index}")
        incoming, outgoing = new["mlp.fc1.weight"].value, new["mlp.out.weight"].value
        if self.how == "zero":
            outgoing = torch.zeros_like(outgoing)
        else:
            incoming, outgoing = torch.cat([incoming] * 2, 1), torch.cat([outgoing, -outgoing], 2)
        bias = torch.zeros_like(incoming[..., 0])
        added = {"mlp.fc1.weight": (incoming, 1), "mlp.fc1.bias": (bias, 1), "mlp.out.weight": (outgoing, 2)}
        return {name: joined(leaf, *added[name]) if name in added else leaf for name, leaf in block.items()}


@dataclass(frozen=True)
class Then:
    """Rewrites one after the other, as one event."""

    rewrites: tuple[Rewrite, ...]

    def __call__(self, state: State, site: Site) -> State:
        """Return the state behind the last rewrite."""
        for rewrite in self.rewrites:
            state = rewrite(state, site)
        return state


@dataclass(frozen=True)
class Restart:
    """Nothing grows; the blocks begin with fresh moments, as if they had."""

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with those moments."""
        return replace(state, blocks=tuple(anew(block) for block in state.blocks))


@dataclass(frozen=True)
class AtOwnRate:
    """A rewrite whose newcomers have a learning rate of their own: all that begins with fresh moments.

    That is ``new_lr_factor`` of ``fxgrow.Grower``. Of half-steps both halves are newcomers, as in `fxgrow.deepen`.
    """

    rewrite: Rewrite
    factor: float

    def __call__(self, state: State, site: Site) -> State:
        """Return the grown state; what began anew before this event keeps its rate."""
        grown = self.rewrite(state, site)
        known = {id(leaf) for leaf in state.leaves().values()}
        own = {
            name: leaf if leaf.steps or id(leaf) in known else replace(leaf, factor=self.factor)
            for name, leaf in grown.leaves().items()
        }
        return grown.with_leaves(own)


def anew(block: Leaves) -> Leaves:
    """Return the same parameters with fresh moments."""
    return {name: Leaf.fresh(leaf.value) for name, leaf in block.items()}


def is_last(name: str) -> bool:
    """Tell whether a parameter belongs to the linear map that ends a branch."""
    return name.split(".")[-2] == "out"


def joined(leaf: Leaf, new: Tensor, dim: int) -> Leaf:
    """Return a parameter with new rows or columns behind the old ones, their moments zero."""
    zeros = torch.zeros_like(new)
    mean, square = torch.cat([leaf.mean, zeros], dim), torch.cat([leaf.square, zeros], dim)
    return replace(leaf, value=torch.cat([leaf.value, new], dim), mean=mean, square=square)


def _doubled(shapes: Sequence[Shape], chosen: Sequence[int]) -> tuple[Shape, ...]:
    return tuple(shape for i, shape in enumerate(shapes) for _ in range(2 if i in chosen else 1))


def _with_copies(state: State, chosen: tuple[int, ...] | None, first: Change, second: Change) -> State:
    """Return the state in which each chosen block is followed by a copy; both are changed leaf by leaf."""
    chosen = tuple(range(len(state.blocks))) if chosen is None else chosen
    blocks: list[Leaves] = []
    for index, block in enumerate(state.blocks):
        if index in chosen:
            blocks += [{name: change(name, leaf) for name, leaf in block.items()} for change in (first, second)]
        else:
            blocks.append(block)
    return replace(state, shapes=_doubled(state.shapes, chosen), blocks=tuple(blocks))
