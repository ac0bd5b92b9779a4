"""Growth by half-steps: budget, allocation and order as for pseudo-layers, heads whole, files and the Grower."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.execution.snapshot import Snapshot
from fxgrow.growth import plan
from fxgrow.inspection import to_plain_text, view_node
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import record_of
from fxgrow.testing import random_scores, sample_models
from fxgrow.widths.branch_units import find_branch_units

Samples = tuple[torch.nn.Module, fx.GraphModule, torch.Tensor]


@pytest.fixture(scope="module")
def traced_once() -> Samples:
    model, (x,) = sample_models()["vit"].make(dtype=torch.float64)
    return model, fxgrow.trace(model, x), x


@pytest.fixture
def vit(traced_once: Samples) -> Iterator[Samples]:
    """A model and its trace, for a test to do with as it likes: the next one finds them as they were."""
    before = Snapshot(traced_once[:2])
    yield traced_once
    before.restore()


@pytest.mark.parametrize("allocation", ["even", "proportional", "greedy"])
def test_the_budget_is_kept_and_spent_on_units_of_branches(vit: Samples, allocation: str) -> None:
    _, traced, _ = vit
    scores = random_scores(traced)
    decided = plan(traced, scores, budget=3_000, operator="half-step", allocation=allocation)
    grown = fxgrow.grow(traced, scores, budget=3_000, operator="half-step", allocation=allocation)
    assert parameter_count(grown) - parameter_count(traced) == decided.cost <= 3_000
    assert decided.cost >= 2_400
    assert set(decided.rows) <= set(find_branch_units(traced).found)


def test_a_head_asks_for_growth_as_its_rows_do_in_the_mean_and_grows_whole(vit: Samples) -> None:
    _, traced, _ = vit
    site, scores = "blocks.0.attn.qkv", random_scores(traced)
    owner = find_branch_units(traced).found[site].rows[site]
    wanting = torch.where(owner == 1, -1.0, 5.0).double()
    wanting[owner.tolist().index(0)] = -4.0  # one row of the other head asks more than any other
    asking = dataclasses.replace(scores, sites={site: dataclasses.replace(scores[site], held_out=wanting)})
    decided = plan(traced, asking, budget=600, operator="half-step")
    assert decided.rows == {site: (1,)}
    assert decided.members[site] == tuple((owner == 1).nonzero()[:, 0].tolist())
    grown = fxgrow.grow(traced, asking, budget=600, operator="half-step")
    assert grown.get_parameter("blocks.0.half_0.attn.qkv.weight").shape == (24, 16)
    (growth,) = record_of(grown).history[0].growths
    assert (growth.kind, growth.neurons, growth.evidence.held_out) == ("half-step", 1, -1.0)


def test_units_without_a_gradient_never_grow(vit: Samples) -> None:
    _, traced, _ = vit
    site, scores = "blocks.0.mlp.fc1", random_scores(traced)
    reached = torch.arange(64) < 3
    some = dataclasses.replace(scores, sites={site: dataclasses.replace(scores[site], reached=reached)})
    assert plan(traced, some, budget=5_000, operator="half-step").rows == {site: (0, 1, 2)}


def test_a_site_that_is_asked_for_and_has_no_units_is_refused_with_the_reason(vit: Samples) -> None:
    _, traced, _ = vit
    with pytest.raises(PlanError, match=r"head: operator 'half-step' cannot go there: it lies in no residual branch"):
        plan(traced, random_scores(traced), operator="half-step", include=["head"])


def test_a_model_without_residual_branches_is_refused_with_the_reasons() -> None:
    model, inputs = sample_models()["mlp"].make()
    traced = fxgrow.trace(model, inputs)
    with pytest.raises(PlanError, match=r"no site is left to grow .*it lies in no residual branch"):
        fxgrow.grow(traced, random_scores(traced), operator="half-step")


def test_an_unknown_operator_is_told_of_half_steps(vit: Samples) -> None:
    _, traced, _ = vit
    with pytest.raises(PlanError, match="no such operator; did you mean 'half-step'"):
        plan(traced, random_scores(traced), operator="half-steps")


@pytest.mark.parametrize("operator", ["half-step", "half-step-apart"])
def test_what_grew_comes_back_from_its_file_and_grows_again(vit: Samples, tmp_path, operator: str) -> None:
    _, traced, x = vit
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.3, operator=operator)
    grown = fxgrow.grow(grown, random_scores(grown), budget=0.2, operator=operator, include=["*half_*fc1"])
    fxgrow.save(grown, tmp_path / "grown.pt")
    base, _ = sample_models()["vit"].make(seed=1, dtype=torch.float64)
    loaded = fxgrow.load(tmp_path / "grown.pt", base=base)
    assert torch.equal(loaded.eval()(x), grown.eval()(x))
    assert fxgrow.depth_map(loaded) == fxgrow.depth_map(grown)
    assert max(fxgrow.depth_map(loaded)["blocks.0.mlp.fc1"]) == 2


def test_inspect_says_where_half_steps_can_go_and_where_not(vit: Samples) -> None:
    _, traced, _ = vit
    shown = [to_plain_text(view_node(traced, site)) for site in ("blocks.0.mlp.fc1", "head")]
    assert re.search(r"half-steps\s+yes: 64 hidden units or heads", shown[0])
    assert re.search(r"half-steps\s+no: it lies in no residual branch", shown[1])


def test_a_grower_grows_by_half_steps_and_reports_another_loss(vit: Samples) -> None:
    _, traced, _ = vit
    draw = np.random.default_rng(0)
    batches = [
        (torch.from_numpy(draw.standard_normal((8, 3, 16, 16))), torch.from_numpy(draw.integers(0, 4, 8)))
        for _ in range(2)
    ]
    optimizer = torch.optim.AdamW(traced.parameters())
    grower = fxgrow.Grower(
        traced, F.cross_entropy, optimizer, budget=0.5, at=(1, 2), operator="half-step", score="random", compile=False
    )
    for _ in range(2):
        report = grower.grow(batches)
        assert report.loss_after != report.loss_before
        F.cross_entropy(grower.model(batches[0][0]), batches[0][1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in grower.graph_module.parameters()}
    assert len(grower.history) == 2
