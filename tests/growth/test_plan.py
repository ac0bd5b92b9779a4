"""A plan keeps to its budget, spends it, prefers what the scores prefer, and refuses what cannot be."""

import dataclasses

import pytest
import torch
import torch.fx as fx
from torch import nn

from fxgrow.curvature.scores import Scores
from fxgrow.errors import PlanError
from fxgrow.graph.sites import find_sites
from fxgrow.growth import plan
from fxgrow.operators import available_operators, find_operator
from fxgrow.primitives.modules import parameter_count


@pytest.mark.parametrize("operator", available_operators())
@pytest.mark.parametrize("allocation", ["even", "proportional", "greedy"])
def test_cost_is_within_the_budget_and_close_to_it(traced, scores, operator, allocation) -> None:
    decided = plan(traced, scores, budget=200, operator=operator, allocation=allocation)
    sites = find_sites(traced)
    cost = sum(find_operator(operator).parameter_count(sites[p].map, len(r)) for p, r in decided.rows.items())
    assert decided.cost == cost
    assert 0.85 * 200 <= cost <= 200  # one neuron costs up to 34 of so small a budget


def test_a_budget_in_proportion_is_spent_to_95_percent(handmade_scores) -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)]))
    decided = plan(graph_module, handmade_scores(graph_module, vectors=False), budget=0.2)
    assert 0.95 * decided.budget <= decided.cost <= decided.budget == int(0.2 * parameter_count(graph_module))


def test_the_stem_and_the_head_do_not_grow_unless_asked(traced, scores) -> None:
    assert plan(traced, scores, budget=200).rows.keys() == {"fc1", "fc2"}
    assert plan(traced, scores, budget=200, include=["stem", "head"]).rows.keys() == {"stem", "head"}
    assert plan(traced, scores, budget=200, exclude=["*1"]).rows.keys() == {"fc2"}


def test_a_model_with_no_inner_site_grows_where_it_can(handmade_scores) -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4)))
    assert plan(graph_module, handmade_scores(graph_module), budget=30).rows.keys() == {"0"}


def test_the_neurons_with_the_most_negative_held_out_scores_grow(traced, scores) -> None:
    decided = plan(traced, scores, budget=0.4, operator="branch")
    for path, rows in decided.rows.items():
        neurons = scores[path].held_out.numel()
        assert rows == tuple(range(neurons - len(rows), neurons))


def test_even_gives_every_site_the_same_number_of_parameters(traced, scores) -> None:
    decided = plan(traced, scores, budget=140, operator="branch")
    costs = {path: len(rows) * (find_sites(traced)[path].features + 1) for path, rows in decided.rows.items()}
    assert abs(costs["fc1"] - costs["fc2"]) <= 17  # one neuron of fc2


def test_what_an_exhausted_site_leaves_goes_to_the_others(traced, scores) -> None:
    decided = plan(traced, scores, budget=300, operator="branch")
    assert len(decided.rows["fc1"]) == 16  # all of them: 112 parameters
    assert len(decided.rows["fc2"]) == 11  # 11 x 17 of the 188 that are left


def test_greedy_takes_the_best_score_per_parameter_wherever_it_is(traced, scores) -> None:
    decided = plan(traced, scores, budget=70, operator="branch", allocation="greedy")
    assert decided.rows == {"fc1": tuple(range(6, 16))}  # 10 x 7: fc1 asks less a neuron and scores higher


def test_proportional_refuses_scores_that_ask_for_nothing(traced, scores) -> None:
    silent = {path: dataclasses.replace(site, held_out=-site.held_out) for path, site in scores.items()}
    silent_scores = dataclasses.replace(scores, sites=silent)
    with pytest.raises(PlanError, match="no neuron's held-out score asks for growth; use 'even'"):
        plan(traced, silent_scores, allocation="proportional")


@pytest.mark.parametrize("budget", [0, 0.0, -1, -0.5, float("nan"), float("inf"), True, "10%", None])
def test_a_budget_that_is_not_a_positive_number_is_refused(traced, scores, budget) -> None:
    with pytest.raises(PlanError, match=r"budget.*: it is .*; give a fraction of the parameters as a float"):
        plan(traced, scores, budget=budget)


def test_a_budget_too_small_for_one_neuron_names_the_price(traced, scores) -> None:
    with pytest.raises(
        PlanError, match="budget of 5 parameters: it pays for no neuron: the cheapest one, at fc1, costs 7"
    ):
        plan(traced, scores, budget=5, operator="branch")


def test_scores_of_another_model_are_refused(traced, handmade_scores) -> None:
    other = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(PlanError, match="measured on another graph"):
        plan(traced, handmade_scores(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["fc3"]}, "fc3: no site has this module path; did you mean 'fc"),
        ({"exclude": ["nothing.*"]}, "no site has this module path"),
        ({"allocation": "evenly"}, "allocation 'evenly': no such allocation; did you mean 'even'"),
        ({"operator": "width"}, "operator 'width': no such operator; "),
        ({"exclude": ["*"]}, "include and exclude: no site is left to grow"),
    ],
)
def test_unknown_names_are_refused_with_a_way_out(traced, scores, options, message) -> None:
    with pytest.raises(PlanError, match=message.replace("*", r"\*")):
        plan(traced, scores, **options)


def test_a_site_that_cannot_grow_is_refused_when_it_is_asked_for(traced, scores) -> None:
    less = Scores({p: s for p, s in scores.items() if p != "fc1"}, "eigen", scores.digest, 256)
    with pytest.raises(PlanError, match="fc1: it has no score; analyze it first"):
        plan(traced, less, include=["fc1"])


def test_a_plan_reads_as_a_pipeline(traced, scores) -> None:
    decided = plan(traced, scores, budget=40, operator="branch", include=["fc1"])
    assert str(decided) == 'insert-pseudo-layers{rows={"fc1":[11,12,13,14,15]} operator="branch"}'


def test_ties_go_to_the_lower_index(traced, scores) -> None:
    flat = {p: dataclasses.replace(s, held_out=torch.zeros_like(s.held_out)) for p, s in scores.items()}
    decided = plan(traced, dataclasses.replace(scores, sites=flat), budget=40, operator="branch", include=["fc1"])
    assert decided.rows["fc1"] == (0, 1, 2, 3, 4)


def test_even_keeps_sites_of_one_shape_equal_where_that_spends_the_budget(handmade_scores) -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)]))
    decided = plan(graph_module, handmade_scores(graph_module, vectors=False), budget=0.3)
    assert len({len(rows) for rows in decided.rows.values()}) == 1
    assert decided.cost >= 0.97 * decided.budget
