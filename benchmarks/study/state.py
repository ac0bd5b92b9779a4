"""The networks of many seeds as one state: stacked parameters, each with its Adam moments beside it."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from study.networks import Architecture, Shape, skeleton


@dataclass(frozen=True)
class Leaf:
    """One parameter of all seeds, (seeds, ...), with Adam's moments and how many steps they have seen."""

    value: Tensor
    mean: Tensor
    square: Tensor
    steps: int = 0
    factor: float = 1.0  #: its learning rate, in units of the others'

    @classmethod
    def fresh(cls, value: Tensor) -> "Leaf":
        """Return a parameter without a past."""
        return cls(value, torch.zeros_like(value), torch.zeros_like(value))


Leaves = Mapping[str, Leaf]


@dataclass(frozen=True)
class State:
    """Networks of one shape, one for each seed.

    Attributes:
        shapes: the blocks, in order.
        outer: stem, position, norm and head.
        blocks: the parameters of each block, by their names within it.
    """

    shapes: tuple[Shape, ...]
    outer: Leaves
    blocks: tuple[Leaves, ...]

    def leaves(self) -> dict[str, Leaf]:
        """Return all parameters by their names in the network."""
        inner = {f"blocks.{i}.{name}": leaf for i, block in enumerate(self.blocks) for name, leaf in block.items()}
        return {**self.outer, **inner}

    def values(self) -> dict[str, Tensor]:
        """Return the stacked parameters, for ``functional_call`` under ``vmap``."""
        return {name: leaf.value for name, leaf in self.leaves().items()}

    def with_leaves(self, leaves: Leaves) -> "State":
        """Return the state with other parameters of the same names."""
        blocks = tuple({name: leaves[f"blocks.{i}.{name}"] for name in block} for i, block in enumerate(self.blocks))
        return replace(self, outer={name: leaves[name] for name in self.outer}, blocks=blocks)

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Return the state with a function applied to every tensor: to choose seeds, or to copy."""
        changed = {
            name: replace(leaf, **{part: function(getattr(leaf, part)) for part in ("value", "mean", "square")})
            for name, leaf in self.leaves().items()
        }
        return self.with_leaves(changed)

    def parameters(self) -> int:
        """Count the parameters of one seed."""
        return sum(leaf.value[0].numel() for leaf in self.leaves().values())


def initial(architecture: Architecture, shapes: Sequence[Shape], seeds: Sequence[int]) -> State:
    """Draw networks: a parameter depends on the seed and on its name, so that shallow and deep ones begin alike."""
    network = skeleton(architecture, shapes)
    values = {
        name: torch.stack([_draw(name, tuple(parameter.shape), seed) for seed in seeds])
        for name, parameter in network.named_parameters()
    }
    blocks = tuple(
        {name: Leaf.fresh(values[f"blocks.{i}.{name}"]) for name, _ in block.named_parameters()}
        for i, block in enumerate(network.blocks)
    )
    outer = {name: Leaf.fresh(value) for name, value in values.items() if not name.startswith("blocks.")}
    return State(tuple(shapes), outer, blocks)


def fresh_block(architecture: Architecture, shape: Shape, seeds: Sequence[int], salt: str) -> dict[str, Leaf]:
    """Draw a block that nothing else shares its numbers with."""
    network = skeleton(architecture, [shape])
    return {
        name: Leaf.fresh(torch.stack([_draw(f"{salt}.{name}", tuple(parameter.shape), seed) for seed in seeds]))
        for name, parameter in network.blocks[0].named_parameters()
    }


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw one parameter by numpy: norms 1, biases 0, positions small, maps uniform within fan-in^-1/2."""
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    kind = name.split(".")[-2] if "." in name else name
    if kind == "norm":
        return torch.full(shape, float(name.endswith("weight")))
    if name.endswith("bias"):
        return torch.zeros(shape)
    if kind == "position":
        return torch.from_numpy(generator.normal(0, 0.02, shape)).float()
    bound = math.prod(shape[1:] or shape) ** -0.5
    return torch.from_numpy(generator.uniform(-bound, bound, shape)).float()
