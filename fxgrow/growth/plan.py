"""The plan: which neurons grow, by which operator, at what price. Plain data; nothing is changed yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.errors import PlanError
from fxgrow.growth.allocation import best, find_allocation
from fxgrow.growth.budget import BUDGET_IN_WORDS, Budget, as_budget, resolve_budget
from fxgrow.growth.eligibility import eligible_sites
from fxgrow.growth.kinds import find_kind
from fxgrow.growth.places import Price
from fxgrow.passes.base import Pass
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.record import Evidence


@dataclass(frozen=True)
class Plan:
    """An edit that is not yet made. `str` of a plan is a pipeline that `fxgrow.passes.parse` reads back."""

    #: the neurons that grow, by site; with half-steps the hidden units, by their row, and heads, by their number
    rows: Mapping[str, tuple[int, ...]]
    operator: str
    seed: int
    budget: int  #: parameters that may be added; of a budget of FLOPs, what they come to
    cost: int  #: parameters that the edit adds
    allocation: str
    members: Mapping[str, tuple[int, ...]]  #: the rows that these are made of, by site

    def edit(self, scores: Scores) -> Pass:
        """Return the plan as a pass, with the eigenvectors of the chosen rows to start from, and their scores."""
        evidence = {path: _evidence(scores.score, scores[path], rows) for path, rows in self.members.items()}
        return find_kind(self.operator).edit(self.rows, self.seed, _Directions(self.members, scores), evidence)

    def __str__(self) -> str:
        return str(find_kind(self.operator).edit(self.rows, self.seed))


def _evidence(score: str, scores: SiteScores, rows: tuple[int, ...]) -> Evidence:
    held_out, stderr, chosen = scores.held_out, scores.stderr, list(rows)
    return Evidence(
        score,
        held_out=None if held_out is None else float(held_out[chosen].mean()),
        stderr=None if stderr is None else float(stderr[chosen].square().sum().sqrt() / len(rows)),
    )


@dataclass(frozen=True)
class _Directions(Mapping[str, Tensor]):
    """The eigenvectors of the chosen rows, by site.

    They are picked when they are asked for: copies of all at once would be as large as the new parameters.
    """

    rows: Mapping[str, tuple[int, ...]]
    scores: Mapping[str, SiteScores]

    def __getitem__(self, path: str) -> Tensor:
        vectors = self.scores[path].eigenvectors if path in self.rows else None
        if vectors is None:
            raise KeyError(path)
        return vectors[list(self.rows[path])]

    def __iter__(self) -> Iterator[str]:
        return (path for path in self.rows if self.scores[path].eigenvectors is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@checks_arguments(PlanError, scores="what fxgrow.analyze returned", budget=BUDGET_IN_WORDS)
def plan(
    traced: nn.Module,
    scores: Scores,
    *,
    budget: Budget | float = 0.10,
    operator: str = "serial",
    allocation: str = "even",
    include: tuple[str, ...] | list[str] = (),
    exclude: tuple[str, ...] | list[str] = (),
    seed: int = 0,
) -> Plan:
    """Decide which neurons grow.

    The allocation shares the budget out among the eligible sites (`fxgrow.growth.eligibility`); within a site the
    neurons with the highest held-out priority grow.

    Args:
        traced: The graph that is to grow.
        scores: What `fxgrow.analyze` measured on it.
        budget: Parameters to add at most: a float is a fraction of the model's, an int a number. A `Budget` can count
            FLOPs, and says in which portions neurons grow.
        operator: The kind of pseudo-layer. ``"serial"``, the default, adds depth; see `fxgrow.operators`. Or
            ``"half-step"``, for half-steps of hidden units and heads, which *change the function*, and
            ``"half-step-apart"``, whose halves start apart along the scores' eigenvectors (`docs/half_steps.md`).
        allocation: ``"even"`` (every site the same number of parameters), ``"proportional"`` (by held-out scores) or
            ``"greedy"`` (best score per parameter first, wherever it is).
        include: Module paths or shell patterns of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        seed: Seed of the pseudo-layers' random initialisation.

    Raises:
        PlanError: If the scores belong to another graph, if an option does not exist, if no site is eligible, or if
            the budget does not pay for one neuron.
        TraceError: If the model is not traced.
    """
    traced = unwrap(traced)
    scores.check(traced)
    kind, allocate = find_kind(operator), find_allocation(allocation)
    chosen = as_budget(budget)
    limit = resolve_budget(chosen.size_of(traced), chosen.total)
    sites = eligible_sites(
        traced,
        [path for path in scores if scores[path].eligible],
        scores.refusals,
        include=tuple(include),
        exclude=tuple(exclude),
        nest=kind.nests,
    )
    places, refusals = kind.places(traced, sites, scores)
    for path in include:
        if path in refusals:
            what = f"operator {operator!r} cannot go there: {refusals[path]}"
            raise PlanError(what, where=path, fix="leave it out of include")
    if not places:
        raise PlanError(
            "no site is left to grow" + _told({**scores.refusals, **refusals}),
            where="include and exclude" if include or exclude else "the model",
            fix="name sites in include=, or see with `fxgrow inspect` why each site cannot grow",
        )
    price = Price(places, chosen)
    _check_affordable(price, operator, limit)
    counts = {path: count for path, count in allocate(price, limit).items() if count}
    if not counts:
        what = f"no site has so many neurons: {chosen}"
        raise PlanError(what, where="the budget", fix="give fewer least_rows, or a smaller multiple")
    rows = {path: best(places[path].priority, count) for path, count in counts.items()}
    members = {path: places[path].rows_of(grown) for path, grown in rows.items()}
    cost = sum(places[path].parameters(count) for path, count in counts.items())
    spent = limit if chosen.unit == "parameters" else cost
    return Plan(rows, operator, seed, spent, cost, allocation, members)


def _told(refusals: Mapping[str, str]) -> str:
    """Return why sites have no score, each reason once, with the first site that it holds for."""
    first: dict[str, str] = {}
    for path, reason in refusals.items():
        first.setdefault(reason, path)
    return f" ({'; '.join(f'{path}: {reason}' for reason, path in first.items())})" if first else ""


def _check_affordable(price: Price, operator: str, budget: int) -> None:
    least, unit = price.budget.portion(1), price.budget.unit
    cheapest = min(price.places, key=lambda path: price.of(path, least))
    needed = price.of(cheapest, least)
    if needed > budget:
        what = "the cheapest one" if least == 1 else f"the cheapest {least}"
        raise PlanError(
            f"it pays for no neuron: {what}, at {cheapest}, costs {needed} {unit} with operator {operator!r}",
            where=f"budget of {budget} {unit}",
            fix=f"give at least budget={needed}",
        )
