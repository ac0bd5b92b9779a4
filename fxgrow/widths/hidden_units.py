"""Hidden units of a resized axis, and what becomes of one dimension of one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: scale of new weights where the old ones are all zero
_SCALE = 0.02


@dataclass(frozen=True)
class Units:
    """The hidden units of a resized axis, in terms of the old ones.

    In a matched pair the incoming weights are equal; what goes out differs by ``+r`` and ``-r``, so that the sum stays
    and the pair breaks apart at the first step.
    """

    index: Tensor  #: (units,) the old unit that each one copies; -1 for a new one
    incoming: Tensor  #: (units,) factor of the gradient of its incoming weights
    outgoing: Tensor  #: (units,) factor of its outgoing weights
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """The size of the resized axis."""
        return len(self.index)


@dataclass(frozen=True)
class DimensionResize:
    """How one dimension of a parameter or buffer is resized."""

    dim: int
    index: Tensor  #: (size,) old position of each new one; -1 for none
    values: Tensor  #: (size,) factor of the values
    gradients: Tensor  #: (size,) factor of the gradients
    fill: float = 0.0
    #: pairs of positions that get the same random numbers, and the sign of the second's: 0 to leave both alone
    partners: tuple[tuple[int, int, int], ...] = ()

    def apply(self, old: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the resized tensor."""
        new = self._take(old, self.values, self.fill)
        if generator is None or old.dim() < 2 or not self.partners:
            return new
        scale = old.double().std() if old.numel() > 1 else torch.tensor(0.0)
        shape = [len(self.partners), *new.transpose(0, self.dim).shape[1:]]
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * (scale.cpu() or _SCALE)
        first, second, signs = (torch.tensor(column) for column in zip(*self.partners, strict=True))
        rows = new.transpose(0, self.dim)
        noise = drawn.to(rows)
        rows[first] += noise
        rows[second] += noise * signs.to(rows).reshape(-1, *[1] * (rows.dim() - 1))
        return new

    def moments(self, old: Tensor, order: int) -> Tensor:
        """Return the resized moments of an optimizer."""
        return self._take(old, self.gradients**order, 0.0)

    def _take(self, old: Tensor, factors: Tensor, fill: float) -> Tensor:
        index = self.index.to(old.device)
        shape = [1] * old.dim()
        shape[self.dim] = -1
        taken = old.index_select(self.dim, index.clamp(min=0)) * factors.to(old).reshape(shape)
        return torch.where((index >= 0).reshape(shape), taken, torch.full_like(taken, fill))


def step_along(units: Units, sizes: Sequence[int], place: int, goes_out: Tensor, dim: int) -> DimensionResize:
    """Return how a dimension is resized that is made of axes.

    Args:
        units: The units of the axis that is resized.
        sizes: Old sizes of the axes, outermost first.
        place: Which of them is resized.
        goes_out: Of the new sizes: 1 where what lies there goes out of the units, 0 where it comes in.
        dim: The dimension of the tensor.
    """
    old = torch.arange(torch.Size(sizes).numel()).reshape(tuple(sizes))
    index = torch.where(_along(units.index >= 0, old, place), old.index_select(place, units.index.clamp(min=0)), -1)
    ones = torch.ones(units.count, dtype=torch.float64)
    values, gradients = (
        torch.where(goes_out > 0, _along(out, index, place), _along(into, index, place)).flatten()
        for out, into in ((units.outgoing, ones), (ones, units.incoming))
    )
    return DimensionResize(dim, index.flatten(), values, gradients, 0.0, _partners(units, index, goes_out, place))


def _along(values: Tensor, like: Tensor, place: int) -> Tensor:
    shape = [1] * like.dim()
    shape[place] = -1
    return values.reshape(shape)


def _partners(units: Units, index: Tensor, goes_out: Tensor, place: int) -> tuple[tuple[int, int, int], ...]:
    """Return the positions of matched pairs: new ones get the same weights, and outgoing ones opposite changes."""
    positions = torch.arange(index.numel()).reshape(index.shape)
    partners = []
    for first, second in units.pairs:
        new = int(units.index[second]) < 0
        pair = [positions.select(place, unit).flatten().tolist() for unit in (first, second)]
        out = goes_out.select(place, first).flatten().tolist()
        partners += [(a, b, -1 if o else 1) for a, b, o in zip(*pair, out, strict=True) if o or new]
    return tuple(partners)
