"""A budget counts parameters or FLOPs, and says in which portions neurons grow."""

import itertools

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.growth import Budget, plan
from fxgrow.testing import Draws


@pytest.mark.parametrize(
    ("bounds", "rows", "portion", "at_most"),
    [
        ({}, 5, 5, 5),
        ({"multiple": 4}, 5, 8, 4),
        ({"least_rows": 3, "multiple": 2}, 1, 4, 0),
        ({"most_rows": 6}, 9, 9, 6),
    ],
)
def test_rows_come_in_portions(bounds: dict[str, int], rows: int, portion: int, at_most: int) -> None:
    assert (Budget(**bounds).portion(rows), Budget(**bounds).at_most(rows)) == (portion, at_most)


@pytest.mark.parametrize("allocation", ["even", "proportional", "greedy"])
@pytest.mark.parametrize(("least", "most", "multiple"), [(1, None, 4), (3, 5, 1), (2, 8, 8), (5, 12, 4), (1, 2, 2)])
def test_a_plan_keeps_to_the_portions(traced, scores, allocation, least, most, multiple) -> None:  # type: ignore[no-untyped-def]
    for total in (120, 250, 400):
        budget = Budget(total, least_rows=least, most_rows=most, multiple=multiple)
        try:
            decided = plan(traced, scores, budget=budget, allocation=allocation)
        except PlanError as error:
            assert "pays for no neuron" in str(error)  # noqa: PT017
            continue
        assert decided.rows
        assert decided.cost <= total
        for rows in decided.rows.values():
            assert least <= len(rows) <= (most or len(rows))
            assert len(rows) % multiple == 0


def test_portions_that_no_site_has_are_refused(traced, scores) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match="no site has so many neurons"):
        plan(traced, scores, budget=Budget(10**9, least_rows=1000))


@pytest.mark.parametrize(
    "wrong", [{"total": 0}, {"per_event": -1.0}, {"multiple": 0}, {"least_rows": 5, "most_rows": 4}, {"unit": "bytes"}]
)
def test_a_budget_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        Budget(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("operator", "shares"), [("serial", (0.03, 0.07)), ("branch", (0.1, 0.3))])
def test_flops_are_counted_at_every_position(operator: str, shares: tuple[float, float]) -> None:
    """A plan of FLOPs costs what the grown graph computes, up to the additions of biases, and not more."""
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    images = Draws(dtype=torch.float32).normal(8, 3, 16, 16)
    graph = fxgrow.trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 4)), images)
    scores = fxgrow.analyze(graph, nn.functional.cross_entropy, [(images, torch.arange(8) % 4)], score="random")
    before = flops_per_sample(graph)
    spent = []
    for share in shares:
        grown = fxgrow.grow(graph, scores, budget=Budget(share, unit="flops"), operator=operator)
        spent.append(flops_per_sample(grown) - before)
        assert 0.6 * share * before <= spent[-1] <= share * before
    assert all(less < more for less, more in itertools.pairwise(spent))


def test_flops_of_a_graph_without_shapes_are_refused(scores, traced) -> None:  # type: ignore[no-untyped-def]
    bare = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(PlanError, match="its FLOPs are not known without shapes"):
        Budget(0.1, unit="flops").size_of(bare)
