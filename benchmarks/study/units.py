"""Half-steps for some hidden units: more depth for them, and none for their neighbours."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from study.networks import Shape
from study.rewrites import Site
from study.state import Leaf, Leaves, State


@dataclass(frozen=True)
class HalfUnits:
    """Some hidden units of each MLP are copied into a thin block right behind it.

    The copy has the block's norm; the outgoing weights of the units are halved in both places, and all that the two
    blocks hold starts with fresh moments. ``by`` is "size" (the largest |w1| |w2|), "smallest" or "random".
    """

    units: int
    by: str = "size"

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with a thin block behind each block that has an MLP."""
        shapes: list[Shape] = []
        blocks: list[Leaves] = []
        for index, (shape, block) in enumerate(zip(state.shapes, state.blocks, strict=True)):
            chosen = self._choose(block, index, site)
            shapes += [shape, Shape(hidden=self.units)]
            blocks += [_halved(block, chosen), _thin(block, chosen)]
        return replace(state, shapes=tuple(shapes), blocks=tuple(blocks))

    def _choose(self, block: Leaves, index: int, site: Site) -> Tensor:
        """Return the chosen units of each seed, (seeds, units)."""
        incoming, outgoing = block["mlp.fc1.weight"].value, block["mlp.out.weight"].value
        if self.by == "random":
            draws = [np.random.default_rng((seed, site.step, index)) for seed in site.seeds]
            return torch.stack([torch.from_numpy(draw.permutation(incoming.shape[1])) for draw in draws])[
                :, : self.units
            ]
        size = incoming.norm(dim=2) * outgoing.norm(dim=1)
        return size.argsort(dim=1, descending=self.by == "size")[:, : self.units]


def _halved(block: Leaves, chosen: Tensor) -> Leaves:
    """Return the block with the outgoing weights of the chosen units halved, and fresh moments."""
    weight = block["mlp.out.weight"].value
    factor = torch.ones(weight.shape[0], weight.shape[2]).scatter(1, chosen, 0.5)
    values = {name: leaf.value for name, leaf in block.items()} | {"mlp.out.weight": weight * factor[:, None]}
    return {name: Leaf.fresh(value) for name, value in values.items()}


def _thin(block: Leaves, chosen: Tensor) -> Leaves:
    """Return the block of the copied units; its last bias is zero, as the block in front keeps its own."""
    seeds = torch.arange(len(chosen))[:, None]
    values = {
        "mlp.norm.weight": block["mlp.norm.weight"].value.clone(),
        "mlp.norm.bias": block["mlp.norm.bias"].value.clone(),
        "mlp.fc1.weight": block["mlp.fc1.weight"].value[seeds, chosen],
        "mlp.fc1.bias": block["mlp.fc1.bias"].value[seeds, chosen],
        "mlp.out.weight": block["mlp.out.weight"].value.transpose(1, 2)[seeds, chosen].transpose(1, 2) / 2,
        "mlp.out.bias": torch.zeros_like(block["mlp.out.bias"].value),
    }
    return {name: Leaf.fresh(value) for name, value in values.items()}
