"""Scores of kinds of branches, all attentions against all MLPs: fxgrow's, summed over maps, plain sizes, losses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fxgrow.curvature import Score as FxgrowScore
from study.arms import Arm
from study.block_scores import Score, change, gain_score, held_out_loss
from study.networks import Shape
from study.rewrites import Site, is_last
from study.sources import Source
from study.state import State
from study.units import scored

#: the kinds in the order in which a block applies them, with their maps
KINDS = {"attention": ("attention.qkv", "attention.out"), "mlp": ("mlp.fc1", "mlp.out")}
#: scores of fxgrow by their names there: of a kind, what is positive of the priorities of its maps' outputs, added up
SUMMED = ("eigen", "gradient", "residual", "insertion", "paper")


def scores(source: Source, arms: Sequence[Arm]) -> dict[str, Score]:
    """Return the scores by their names: (state, site) -> (seeds, kinds); arms grow a kind each, in order."""

    def without(state: State, site: Site) -> Tensor:
        parts = split(state)
        return _stacked(lambda kind: held_out_loss(_every_other(parts, 1 - kind), site, source))

    def after(state: State, site: Site) -> Tensor:
        return _stacked(lambda kind: -held_out_loss(arms[kind].events[0].rewrite(state, site), site, source))

    found: dict[str, Score] = {name: partial(_summed, name) for name in SUMMED}
    return found | {
        "gain": lambda state, site: _summed(gain_score(site), state, site),
        "size of its last maps": lambda state, site: _by_kind(_size(split(state))),
        "change of the stream": lambda state, site: _by_kind(change(split(state), site)),
        "loss without it": without,
        "loss right after half-steps of it": after,
        "the attention": lambda state, site: torch.tensor([[1.0, 0.0]] * len(site.seeds)),
        "the MLPs": lambda state, site: torch.tensor([[0.0, 1.0]] * len(site.seeds)),
    }


def split(state: State) -> State:
    """Return the same networks with blocks of one branch each, attention and MLP in turn."""
    shapes = [part for shape in state.shapes for part in (Shape(heads=shape.heads), Shape(hidden=shape.hidden))]
    blocks = [
        {name: leaf for name, leaf in block.items() if name.startswith(f"{kind}.")}
        for block in state.blocks
        for kind in KINDS
    ]
    return replace(state, shapes=tuple(shapes), blocks=tuple(blocks))


def _every_other(state: State, first: int) -> State:
    return replace(state, shapes=state.shapes[first::2], blocks=state.blocks[first::2])


def _stacked(of_kind: Callable[[int], Tensor]) -> Tensor:
    return torch.stack([of_kind(kind) for kind in range(len(KINDS))], 1)


def _summed(score: str | FxgrowScore, state: State, site: Site) -> Tensor:
    maps = [name for kind in KINDS.values() for name in kind]
    found = torch.stack([priority.clamp(min=0).sum(1) for priority in scored(state, site, score, maps)], 1)
    return found.unflatten(1, (-1, len(KINDS), 2)).sum((1, 3))


def _by_kind(values: Tensor) -> Tensor:
    """Add up over the blocks of a split state, (seeds, 2 x blocks)."""
    return values.unflatten(1, (-1, len(KINDS))).sum(1)


def _size(state: State) -> Tensor:
    """Return the norm of the map that ends each block."""
    return torch.stack(
        [
            leaf.value.flatten(1).norm(dim=1)
            for block in state.blocks
            for name, leaf in block.items()
            if is_last(name) and name.endswith("weight")
        ],
        1,
    )
