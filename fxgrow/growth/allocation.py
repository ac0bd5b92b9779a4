"""How a budget is shared out among sites: the part of a plan that decides how many neurons grow where.

Eigenvalues of two sites are not on one scale (they carry the scale of the site's input and of everything behind it),
and on real images no score has yet beaten spreading evenly. `even` is therefore the default; `proportional` and
`greedy` compare scores across sites and are there for those who want to.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fxgrow.errors import PlanError, did_you_mean
from fxgrow.growth.places import Price

#: from prices, and what may be spent, to how many grow at each site
Allocation = Callable[[Price, int], dict[str, int]]

#: `even` parts sites of one shape only where keeping them equal would leave more than this share unspent.
_UNSPENT = 0.03


def even(price: Price, budget: int) -> dict[str, int]:
    """Give every site the same number of parameters; what a site cannot use goes to the others.

    The scores decide which neurons of a site grow, not how many. Sites of one shape get the same number of neurons
    where that spends nearly all of the budget: equal blocks then stay equal, and are compiled once.
    """
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for path, place in price.places.items():
        alike[place.alike].append(path)
    purse = _Purse(price, budget)
    purse.share_out({tuple(paths): float(len(paths)) for paths in alike.values()})
    if purse.rest > _UNSPENT * budget:
        purse.add_neurons([(path,) for path in price.places])
    return purse.chosen


def proportional(price: Price, budget: int) -> dict[str, int]:
    """Give every site parameters in proportion to the positive part of its neurons' held-out priorities.

    Raises:
        PlanError: If no neuron of any site asks for growth.
    """
    weights = {path: float(place.priority.clamp(min=0).sum()) for path, place in price.places.items()}
    if not any(weights.values()):
        raise PlanError(
            "no neuron's held-out score asks for growth", where="allocation 'proportional'", fix="use 'even'"
        )
    purse = _Purse(price, budget)
    purse.share_out({(path,): weight for path, weight in weights.items() if weight > 0})
    return purse.chosen


def greedy(price: Price, budget: int) -> dict[str, int]:
    """Grow the neurons with the highest priority per parameter, wherever they are, until the budget is spent."""
    offers = [
        (float(priority) / price.of(path, 1), path)
        for path, place in price.places.items()
        for priority in place.priority
        if priority > -math.inf
    ]
    purse = _Purse(price, budget)
    for _, path in sorted(offers, key=lambda offer: -offer[0]):
        purse.add_neurons([(path,)])
    return purse.chosen


@dataclass
class _Purse:
    """A budget that is being spent. Sites that stand together in a group get the same number of neurons."""

    price: Price
    rest: int  #: what is not spent yet

    def __post_init__(self) -> None:
        self.chosen = dict.fromkeys(self.price.places, 0)

    def share_out(self, weights: Mapping[tuple[str, ...], float]) -> None:
        """Share what is left out among groups of sites, by weight.

        The groups are served from the one that needs least to the one that needs most, so that what an exhausted group
        leaves over reaches the others.
        """
        needs = {group: self._price(group, self._limit(group)) / weight for group, weight in weights.items()}
        total = sum(weights.values())
        for group in sorted(weights, key=needs.__getitem__):
            rows = self._most_rows(group, int(self.rest * weights[group] / total))
            self._buy(group, rows)
            total -= weights[group]
        self.add_neurons(sorted(weights, key=lambda group: self.chosen[group[0]]))

    def add_neurons(self, groups: Iterable[tuple[str, ...]]) -> None:
        """Add the next neurons to each site of each group in turn, where the rest pays for them."""
        for group in groups:
            rows = self.price.budget.portion(self.chosen[group[0]] + 1)
            if rows <= self._limit(group) and self._price(group, rows) - self._spent(group) <= self.rest:
                self._buy(group, rows)

    def _buy(self, group: tuple[str, ...], rows: int) -> None:
        self.rest -= self._price(group, rows) - self._spent(group)
        self.chosen.update(dict.fromkeys(group, rows))

    def _spent(self, group: tuple[str, ...]) -> int:
        return self._price(group, self.chosen[group[0]])

    def _price(self, group: tuple[str, ...], rows: int) -> int:
        return sum(self.price.of(path, rows) for path in group)

    def _limit(self, group: tuple[str, ...]) -> int:
        """Return how many neurons of each site of a group may grow."""
        return self.price.budget.at_most(min(self.price.places[path].limit for path in group))

    def _most_rows(self, group: tuple[str, ...], budget: int) -> int:
        """Return the largest number of rows that `budget` pays for, by bisection: the cost grows with the rows."""
        low, high = 0, self._limit(group)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._price(group, middle) <= budget else (low, middle - 1)
        return self.price.budget.at_most(low)


ALLOCATIONS: dict[str, Allocation] = {"even": even, "proportional": proportional, "greedy": greedy}


def find_allocation(name: str) -> Allocation:
    """Return the allocation of that name.

    Raises:
        PlanError: If there is none.
    """
    if name not in ALLOCATIONS:
        fix = f"{did_you_mean(name, ALLOCATIONS)}choose one of {', '.join(ALLOCATIONS)}"
        raise PlanError("no such allocation", where=f"allocation {name!r}", fix=fix)
    return ALLOCATIONS[name]


def best(priority: Tensor, count: int) -> tuple[int, ...]:
    """Return the `count` neurons or units with the highest priority, ascending; ties go to the lower index."""
    return tuple(sorted(int(row) for row in _stable_descending(priority)[:count]))


def _stable_descending(values: Tensor) -> Tensor:
    return values.argsort(descending=True, stable=True)
