"""The statistics, against closed forms and simulations of numpy."""

import math

import numpy as np
import pytest
from scipy import stats
from study.analysis import at_cost, cost_interval, cost_to_reach, holm, mean_and_error, oracle, paired


def test_a_paired_difference_is_the_t_test_of_the_differences() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=12), generator.normal(0.3, size=12)
    found, expected = paired(one, other), stats.ttest_rel(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.mean / found.error == pytest.approx(expected.statistic)


def test_what_all_seeds_share_drops_out_of_a_pair() -> None:
    luck = np.random.default_rng(0).normal(size=8)
    found = paired(luck - 0.01, luck)
    assert found.mean == pytest.approx(-0.01)
    assert found.error < 1e-12
    assert found.wins == 1


def test_one_seed_has_no_error() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        paired([1.0], [2.0])
    assert math.isnan(mean_and_error([1.0])[1])


def test_holm_multiplies_the_least_p_by_the_number_of_comparisons() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_holm_keeps_false_alarms_of_a_family_at_the_level() -> None:
    draws = np.random.default_rng(0).uniform(size=(1_000, 10))
    alarms = sum(min(holm(list(row))) < 0.05 for row in draws)
    assert alarms < 75  # 50 expected


def test_the_cost_of_a_loss_lies_on_the_line_between_two_arms() -> None:
    assert cost_to_reach([1.0, 4.0], np.array([3.0, 1.0]), 2.0) == pytest.approx(2.0)
    assert cost_to_reach([4.0, 1.0], np.array([1.0, 3.0]), 2.0) == pytest.approx(2.0)
    assert math.isnan(cost_to_reach([1.0, 4.0], np.array([3.0, 2.5]), 2.0))
    assert cost_to_reach([1.0, 4.0], np.array([1.5, 1.0]), 2.0) == 1.0


@pytest.mark.parametrize("seeds", [3, 4, 18])
def test_the_interval_of_a_cost_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    generator, runs = np.random.default_rng(0), 300
    held = 0
    for _ in range(runs):
        luck = generator.normal(0, 0.05, seeds)
        losses = np.array([3.0, 1.0])[:, None] + luck + generator.normal(0, 0.3, (2, seeds))
        low, high = cost_interval([1.0, 4.0], losses, 2.0 + luck + generator.normal(0, 0.3, seeds)) or (0.0, 0.0)
        held += low <= 2.0 <= high
    assert held / runs > 0.92


def test_the_interval_of_a_cost_is_where_the_t_interval_of_the_difference_contains_0() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(2, 0.1, 5)
    losses = np.array([3.0, 1.0])[:, None] + generator.normal(0, 0.1, (2, 5))
    low, high = cost_interval([1.0, 4.0], losses, base) or (0.0, 0.0)
    assert low < cost_to_reach([1.0, 4.0], losses.mean(1), base.mean()) < high
    assert paired(at_cost([1.0, 4.0], losses, low), base).low == pytest.approx(0, abs=2e-3)
    assert paired(at_cost([1.0, 4.0], losses, high), base).high == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([[3.0, 3.1], [2.9, 3.0]], (math.inf, math.inf)),
        ([[1.0, 1.1], [0.9, 1.0]], (1.0, 1.0)),
        ([[3.0, 1.1], [1.0, 2.9]], (1.0, math.inf)),
    ],
    ids=["never", "already by the cheapest arm", "in doubt everywhere"],
)
def test_an_interval_ends_with_the_arms(losses: list[list[float]], expected: tuple[float, float]) -> None:
    assert cost_interval([1.0, 4.0], np.array(losses), np.array([2.0, 2.11])) == expected


def test_the_baseline_reaches_its_own_loss_at_its_cost_and_one_seed_has_no_interval() -> None:
    base = np.array([1.0, 1.2, 1.1])
    shorter = base + np.array([0.5, 0.6, 0.4])
    assert cost_interval([0.5, 1.0], np.array([shorter, base]), base) == (1.0, 1.0)
    assert cost_interval([0.5, 1.0], np.array([[2.0], [1.0]]), np.array([1.0])) is None


def test_the_oracle_is_chosen_on_the_other_half_of_the_seeds() -> None:
    losses = np.array([[1.0, 3.0, 1.0, 3.0], [3.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert oracle(losses).tolist() == [3.0, 3.0, 3.0, 3.0]  # each arm is best where it was not looked at
    assert oracle(losses + np.array([[0], [5], [5]])).tolist() == [1.0, 3.0, 1.0, 3.0]


def test_the_oracle_among_equal_arms_wins_nothing() -> None:
    luck = np.random.default_rng(0).normal(size=(200, 5, 12))
    found = [oracle(losses).mean() for losses in luck]
    assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5
