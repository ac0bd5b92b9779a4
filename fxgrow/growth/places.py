"""Places: the sites at which something may grow, how much, in which order, and what it costs."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fxgrow.graph.sites import Site
from fxgrow.growth.budget import Budget


@dataclass(frozen=True, eq=False)
class GrowthPlace:
    """A site at which neurons, or units of several of its rows, may grow."""

    site: Site
    priority: Tensor  #: how strongly each asks for growth ``(neurons,)`` or ``(units,)``; minus infinity never grows
    parameters: Callable[[int], int]  #: how many so many of them add
    alike: Hashable  #: places that are alike have the same prices
    owner: Tensor  #: which of them each row of the site belongs to ``(neurons,)``

    @property
    def limit(self) -> int:
        """How many may grow."""
        return int((self.priority > -torch.inf).sum())

    @property
    def positions(self) -> int:
        """How many positions of a sample the site computes, over all its calls."""
        shapes = [call.meta["tensor_meta"].shape for call in self.site.calls]
        return sum(max(1, shape.numel() // (shape[0] * self.site.neurons)) for shape in shapes)

    def rows_of(self, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """Return the rows of the site that some of them are made of."""
        return tuple(torch.isin(self.owner, torch.tensor(chosen)).nonzero()[:, 0].tolist())


@dataclass(frozen=True)
class Price:
    """What growth costs at each place, in the unit of a budget."""

    places: Mapping[str, GrowthPlace]
    budget: Budget

    def of(self, path: str, rows: int) -> int:
        """Return what `rows` grown neurons or units of a site cost.

        In FLOPs with the additions of biases, and without the products of queries and keys in a head of its own.
        """
        if not rows:
            return 0
        place = self.places[path]
        parameters = place.parameters(rows)
        return parameters if self.budget.unit == "parameters" else 2 * parameters * place.positions
