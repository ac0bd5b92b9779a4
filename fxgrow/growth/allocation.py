"""How a budget is shared out among sites: the part of a plan that decides how many neurons grow where.

Eigenvalues of two sites are not on one scale (they carry the scale of the site's input and of everything behind it),
and on real images no score has yet beaten spreading evenly. `even` is therefore the default; `proportional` and
`greedy` compare scores across sites and are there for those who want to.
"""

import difflib
from collections.abc import Callable, Mapping

from torch import Tensor

from fxgrow.curvature.scores import SiteScores
from fxgrow.errors import PlanError
from fxgrow.graph.sites import Site
from fxgrow.operators import PseudoLayer

Allocation = Callable[[Mapping[str, Site], Mapping[str, SiteScores], type[PseudoLayer], int], dict[str, int]]


def even(
    sites: Mapping[str, Site], scores: Mapping[str, SiteScores], operator: type[PseudoLayer], budget: int
) -> dict[str, int]:
    """Give every site the same number of parameters; what a site cannot use goes to the others.

    The scores decide which neurons of a site grow, not how many.
    """
    return _share_out(sites, operator, budget, dict.fromkeys(sites, 1.0))


def proportional(
    sites: Mapping[str, Site], scores: Mapping[str, SiteScores], operator: type[PseudoLayer], budget: int
) -> dict[str, int]:
    """Give every site parameters in proportion to the positive part of its neurons' held-out priorities.

    Raises:
        PlanError: If no neuron of any site asks for growth.
    """
    weights = {path: float(scores[path].priority.clamp(min=0).sum()) for path in sites}
    if not any(weights.values()):
        raise PlanError(
            "no neuron's held-out score asks for growth", where="allocation 'proportional'", fix="use 'even'"
        )
    return _share_out(sites, operator, budget, weights)


def greedy(
    sites: Mapping[str, Site], scores: Mapping[str, SiteScores], operator: type[PseudoLayer], budget: int
) -> dict[str, int]:
    """Grow the neurons with the highest priority per parameter, wherever they are, until the budget is spent."""
    offers = [
        (float(priority) / operator.parameter_count(site.map, 1), path)
        for path, site in sites.items()
        for priority in scores[path].priority
    ]
    chosen, spent = dict.fromkeys(sites, 0), 0
    for _, path in sorted(offers, key=lambda offer: -offer[0]):
        cost = operator.parameter_count
        step = cost(sites[path].map, chosen[path] + 1) - (cost(sites[path].map, chosen[path]) if chosen[path] else 0)
        if spent + step <= budget:
            chosen[path], spent = chosen[path] + 1, spent + step
    return chosen


def _share_out(
    sites: Mapping[str, Site], operator: type[PseudoLayer], budget: int, weights: Mapping[str, float]
) -> dict[str, int]:
    """Share `budget` out by `weights`, refilling until nothing more fits.

    Each round serves the sites from the one that needs least to the one that needs most, so that what an exhausted site
    leaves over reaches the others in the same round.
    """
    capacity = {path: operator.parameter_count(site.map, site.neurons) for path, site in sites.items()}
    order = sorted((path for path in sites if weights[path] > 0), key=lambda path: capacity[path] / weights[path])
    chosen, spent, total = dict.fromkeys(sites, 0), 0, sum(weights[path] for path in order)
    for path in order:
        share = (budget - spent) * weights[path] / total
        chosen[path] = _most_rows(sites[path], operator, int(share))
        spent += operator.parameter_count(sites[path].map, chosen[path]) if chosen[path] else 0
        total -= weights[path]
    _spend_the_rest(sites, operator, budget - spent, chosen, order)
    return chosen


def _spend_the_rest(
    sites: Mapping[str, Site], operator: type[PseudoLayer], rest: int, chosen: dict[str, int], order: list[str]
) -> None:
    """Add single neurons, to the sites with fewest first, while the rest of the budget pays for them."""
    for path in sorted(order, key=lambda path: chosen[path]):
        linear, rows = sites[path].map, chosen[path]
        if rows == sites[path].neurons:
            continue
        step = operator.parameter_count(linear, rows + 1) - (operator.parameter_count(linear, rows) if rows else 0)
        if step <= rest:
            chosen[path], rest = rows + 1, rest - step


def _most_rows(site: Site, operator: type[PseudoLayer], budget: int) -> int:
    """Return the largest number of rows that `budget` pays for, by bisection: the cost grows with the rows."""
    low, high = 0, site.neurons
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if operator.parameter_count(site.map, middle) <= budget else (low, middle - 1)
    return low


ALLOCATIONS: dict[str, Allocation] = {"even": even, "proportional": proportional, "greedy": greedy}


def find_allocation(name: str) -> Allocation:
    """Return the allocation of that name.

    Raises:
        PlanError: If there is none.
    """
    if name not in ALLOCATIONS:
        close = difflib.get_close_matches(name, ALLOCATIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise PlanError(
            "no such allocation", where=f"allocation {name!r}", fix=f"{hint}choose one of {', '.join(ALLOCATIONS)}"
        )
    return ALLOCATIONS[name]


def best_rows(scores: SiteScores, count: int) -> tuple[int, ...]:
    """Return the `count` neurons with the highest priority, ascending; ties go to the lower index."""
    order = _stable_descending(scores.priority)[:count]
    return tuple(sorted(int(row) for row in order))


def _stable_descending(values: Tensor) -> Tensor:
    return values.argsort(descending=True, stable=True)
