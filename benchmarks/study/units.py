"""Thin blocks for some hidden units: more depth for them, and none for their neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import fxgrow
from fxgrow.curvature import Score
from fxgrow.curvature.scores import SiteScores
from study.networks import Network, Shape, plain
from study.rewrites import Site, anew, is_last
from study.state import Leaf, Leaves, State, fresh_block
from study.training import mean_loss


@dataclass(frozen=True)
class HalfUnits:
    """Some hidden units of each MLP are copied into a thin block right behind it.

    The copy has the MLP's norm; the outgoing weights of the units are halved in both places, and the MLP and its copy
    start with fresh moments: the pass ``insert-half-steps`` of fxgrow. ``by`` is "size" (the largest |w1| |w2|),
    "smallest", "random", or a score of fxgrow, which is measured on training data.
    """

    units: int
    by: str = "size"

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with a thin block behind each block that has an MLP."""
        shapes: list[Shape] = []
        blocks: list[Leaves] = []
        orders = self.orders(state, site)
        for index, (shape, block) in enumerate(zip(state.shapes, state.blocks, strict=True)):
            chosen = orders[index][:, : self.units]
            shapes += [shape, Shape(hidden=self.units)]
            blocks += [self._front(block, chosen), self._behind(block, chosen, index, site)]
        return replace(state, shapes=tuple(shapes), blocks=tuple(blocks))

    def orders(self, state: State, site: Site) -> list[Tensor]:
        """Return for each block its units in the order in which they are chosen, (seeds, units)."""
        if self.by == "random":
            return [_random(shape.hidden, index, site) for index, shape in enumerate(state.shapes)]
        if self.by in ("size", "smallest"):
            return [size(block).argsort(dim=1, descending=self.by == "size") for block in state.blocks]
        return [score.argsort(dim=1, descending=True) for score in scored(state, site, self.by)]

    def _front(self, block: Leaves, chosen: Tensor) -> Leaves:
        """Return the block with the outgoing weights of the chosen units halved, its MLP with fresh moments."""
        fresh = {n: Leaf.fresh(leaf.value) if n.startswith("mlp.") else leaf for n, leaf in block.items()}
        return _half_columns(fresh, "mlp.out.weight", chosen)

    def _behind(self, block: Leaves, chosen: Tensor, index: int, site: Site) -> Leaves:
        """Return the block of the copied units; its last bias is zero, as the block in front keeps its own."""
        return _copied(block, chosen, 0.5)


@dataclass(frozen=True)
class SilentUnits(HalfUnits):
    """The same thin blocks with zero outgoing weights: the function is kept, and so is what was there.

    What ``fxgrow.insert_block`` does with whole blocks.
    """

    def _front(self, block: Leaves, chosen: Tensor) -> Leaves:
        return block

    def _behind(self, block: Leaves, chosen: Tensor, index: int, site: Site) -> Leaves:
        return _copied(block, chosen, 0.0)


@dataclass(frozen=True)
class NewUnits(SilentUnits):
    """Thin blocks that are drawn anew, with zero outgoing weights."""

    by: str = "random"

    def _behind(self, block: Leaves, chosen: Tensor, index: int, site: Site) -> Leaves:
        shape = Shape(hidden=self.units)
        drawn = fresh_block(site.architecture, shape, site.seeds, f"thin.{site.step}.{index}")
        return {name: Leaf.fresh(leaf.value * 0) if is_last(name) else leaf for name, leaf in drawn.items()}


@dataclass(frozen=True)
class HalfShare(HalfUnits):
    """Random units of each MLP and random heads of each attention, as many of every block; none of one is possible.

    All that the block and its copy hold starts with fresh moments.
    """

    by: str = "random"
    heads: int = 0

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with a thin block of heads and units behind each block."""
        width = site.architecture.head_width
        shapes: list[Shape] = []
        blocks: list[Leaves] = []
        for index, (shape, block) in enumerate(zip(state.shapes, state.blocks, strict=True)):
            units = _random(shape.hidden, index, site)[:, : self.units]
            columns = _columns(_random(shape.heads, index, site)[:, : self.heads], width)
            front = _half_columns(self._front(anew(block), units), "attention.out.weight", columns)
            shapes += [shape, Shape(self.heads, self.units)]
            blocks += [front, self._thin(block, units, columns, shape.heads * width)]
        return replace(state, shapes=tuple(shapes), blocks=tuple(blocks))

    def _thin(self, block: Leaves, units: Tensor, columns: Tensor, inner: int) -> Leaves:
        attention = _copied_heads(block, columns, inner) if self.heads else {}
        return {**attention, **(_copied(block, units, 0.5) if self.units else {})}


def size(block: Leaves) -> Tensor:
    """Return |w1| |w2| of each hidden unit, (seeds, units)."""
    return block["mlp.fc1.weight"].value.norm(dim=2) * block["mlp.out.weight"].value.norm(dim=1)


def scored(state: State, site: Site, score: str | Score, maps: Sequence[str] = ("mlp.fc1",)) -> list[Tensor]:
    """Return the priorities that a score of fxgrow gives to outputs, (seeds, units), for each map of each block.

    Without ``maps``, to hidden units.
    """
    return _analyzed(state, site, score, maps, lambda scores: scores.priority)


def directions(state: State, site: Site, score: str | Score, maps: Sequence[str]) -> list[Tensor]:
    """Return the eigenvectors of a score of fxgrow, (seeds, units, features), for each map of each block."""
    return _analyzed(state, site, score, maps, lambda scores: scores.eigenvectors)


def _analyzed(
    state: State, site: Site, score: str | Score, maps: Sequence[str], what: Callable[[SiteScores], Tensor]
) -> list[Tensor]:
    x, y = site.probe()
    names = [f"blocks.{index}.{name}" for index in range(len(state.blocks)) for name in maps]
    found = []
    for index in range(len(site.seeds)):
        network = Network(site.architecture, state.shapes)
        network.load_state_dict({name: value[index] for name, value in state.values().items()})
        batches = [(x[index, part::4], y[index, part::4]) for part in range(4)]
        traced = fxgrow.trace(plain(network), x[index, :4])
        with torch.enable_grad():
            scores = fxgrow.analyze(traced, mean_loss, batches, score=score, sites=names)
        found.append([what(scores[name]) for name in names])
    return [torch.stack(own) for own in zip(*found, strict=True)]


def _random(units: int, index: int, site: Site) -> Tensor:
    draws = [np.random.default_rng((seed, site.step, index)) for seed in site.seeds]
    return torch.stack([torch.from_numpy(draw.permutation(units)) for draw in draws])


def _half_columns(block: Leaves, name: str, chosen: Tensor) -> Leaves:
    """Return the block with some columns of one weight halved."""
    weight = block[name].value
    factor = torch.ones(weight.shape[0], weight.shape[2]).scatter(1, chosen, 0.5)
    return {**block, name: Leaf.fresh(weight * factor[:, None])}


def _columns(heads: Tensor, width: int) -> Tensor:
    """Return the features of some heads, (seeds, heads x width)."""
    return (heads[:, :, None] * width + torch.arange(width)).flatten(1)


def _copied_heads(block: Leaves, columns: Tensor, inner: int) -> Leaves:
    """Return the attention of copied heads, their outgoing weights halved; all heads have ``inner`` features."""
    seeds = torch.arange(len(columns))[:, None]
    rows = torch.cat([part * inner + columns for part in range(3)], dim=1)
    values = {
        "attention.norm.weight": block["attention.norm.weight"].value.clone(),
        "attention.norm.bias": block["attention.norm.bias"].value.clone(),
        "attention.qkv.weight": block["attention.qkv.weight"].value[seeds, rows],
        "attention.qkv.bias": block["attention.qkv.bias"].value[seeds, rows],
        "attention.out.weight": block["attention.out.weight"].value.transpose(1, 2)[seeds, columns].transpose(1, 2) / 2,
        "attention.out.bias": torch.zeros_like(block["attention.out.bias"].value),
    }
    return {name: Leaf.fresh(value) for name, value in values.items()}


def _copied(block: Leaves, chosen: Tensor, scale: float) -> Leaves:
    """Return a thin block of copied units, their outgoing weights multiplied by ``scale``."""
    seeds = torch.arange(len(chosen))[:, None]
    values = {
        "mlp.norm.weight": block["mlp.norm.weight"].value.clone(),
        "mlp.norm.bias": block["mlp.norm.bias"].value.clone(),
        "mlp.fc1.weight": block["mlp.fc1.weight"].value[seeds, chosen],
        "mlp.fc1.bias": block["mlp.fc1.bias"].value[seeds, chosen],
        "mlp.out.weight": block["mlp.out.weight"].value.transpose(1, 2)[seeds, chosen].transpose(1, 2) * scale,
        "mlp.out.bias": torch.zeros_like(block["mlp.out.bias"].value),
    }
    return {name: Leaf.fresh(value) for name, value in values.items()}
