"""Paired differences with their errors, corrected for how many were made, and the cost at which a loss is reached."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_GRID = 2_001  #: costs at which a frontier is looked at


@dataclass(frozen=True)
class Difference:
    """One arm against another on the same seeds; negative is less, which is better for a loss."""

    mean: float
    error: float  #: standard error of the mean
    low: float  #: 95 % interval by Student's t
    high: float
    wins: float  #: share of the seeds on which it is negative; ties count half
    p: float  #: of no difference, two-sided, not corrected


def paired(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Return ``one - other``, seed by seed.

    Raises:
        ValueError: fewer than two seeds, or not equally many.
    """
    differences = np.asarray(one, float) - np.asarray(other, float)
    count = len(differences)
    if count < 2:
        raise ValueError("A paired difference needs two seeds or more")
    mean, error = differences.mean(), differences.std(ddof=1) / count**0.5
    half = stats.t.ppf(0.975, count - 1) * error
    wins = ((differences < 0) + 0.5 * (differences == 0)).mean()
    p = 2 * stats.t.sf(abs(mean) / error, count - 1) if error else float(mean == 0)
    return Difference(float(mean), float(error), float(mean - half), float(mean + half), float(wins), float(p))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; the error of one value is not a number."""
    found = np.asarray(values, float)
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else float("nan")


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    scaled = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]


def oracle(losses: np.ndarray) -> np.ndarray:
    """Return what the best arm has on each seed, (seeds,), the arm being chosen on the other half of the seeds.

    Args:
        losses: (arms, seeds).
    """
    halves = np.arange(losses.shape[1]) % 2 == 0
    best = {half: losses[:, halves != half].mean(1).argmin() for half in (True, False)}
    return np.array([losses[best[bool(half)], seed] for seed, half in enumerate(halves)])


def cost_to_reach(costs: Sequence[float], losses: np.ndarray, target: float) -> float:
    """Return the cost at which a frontier reaches a loss, by linear interpolation of the loss over log cost.

    Args:
        costs: cost of each arm of the frontier, (arms,).
        losses: mean loss of each arm, (arms,).
        target: the loss to reach.

    Returns:
        The least such cost; not a number where the frontier ends above the target, and the least cost of the frontier
        where all of it lies below (the true one is lower).
    """
    order = np.argsort(costs)
    x, y = np.log(np.asarray(costs, float)[order]), np.asarray(losses, float)[order]
    if y[0] <= target:
        return float(np.exp(x[0]))
    for left in range(len(x) - 1):
        if y[left + 1] <= target:
            share = (y[left] - target) / (y[left] - y[left + 1])
            return float(np.exp(x[left] + share * (x[left + 1] - x[left])))
    return float("nan")


def at_cost(costs: Sequence[float], values: np.ndarray, cost: float | np.ndarray) -> np.ndarray:
    """Return what a frontier has at a cost between those of its arms, interpolated over log cost: (seeds, *cost).

    Args:
        costs: cost of each arm of the frontier, (arms,).
        values: loss or accuracy, (arms, seeds).
        cost: costs from the least to the greatest of these, or one of them.
    """
    order = np.argsort(costs)
    x = np.log(np.asarray(costs, float)[order])
    return np.array([np.interp(np.log(cost), x, column) for column in values[order].T])


def cost_interval(costs: Sequence[float], losses: np.ndarray, base: np.ndarray) -> tuple[float, float] | None:
    """Return a 95 % interval of the cost at which a frontier reaches the loss of a baseline; None for a single seed.

    It is where Student's t interval of the difference, paired by seed, contains 0: from the least cost at which the
    frontier is not significantly worse to the cost from which on it is nowhere in doubt that it is as good. An end that
    the cheapest arm has is that arm's cost (the true one is lower), one that the dearest has not is infinite.

    Args:
        costs: (arms,).
        losses: (arms, seeds).
        base: losses of the baseline on the same seeds, (seeds,).
    """
    count = len(base)
    if count < 2:
        return None
    grid = np.geomspace(min(costs), max(costs), _GRID)
    differences = at_cost(costs, losses, grid) - base[:, None]
    half = stats.t.ppf(0.975, count - 1) * differences.std(0, ddof=1) / count**0.5
    possible = np.flatnonzero(differences.mean(0) - half <= 0)
    sure = np.append(differences.mean(0) + half <= 0, True)
    first_sure = np.flatnonzero(~sure)[-1] + 1 if not sure.all() else 0
    ends = np.append(grid, np.inf)
    return float(ends[possible[0] if len(possible) else -1]), float(ends[first_sure])
