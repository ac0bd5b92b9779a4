"""Growth keeps the function, the old parameters and the traced model, and remembers what it did."""

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.operators import available_operators
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.annotations import annotation
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of


def run(graph_module: fx.GraphModule, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    output = graph_module(x)
    parameters = dict(graph_module.named_parameters())
    gradients = torch.autograd.grad(output.square().sum(), list(parameters.values()), allow_unused=True)
    return output, dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("operator", available_operators())
def test_outputs_and_old_gradients_are_unchanged(traced, handmade_scores, operator, training) -> None:
    traced.double().train(training)
    grown = fxgrow.grow(traced, handmade_scores(traced), budget=0.5, operator=operator)
    x = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    (before, old), (after, new) = run(traced, x), run(grown, x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    for name, gradient in old.items():
        torch.testing.assert_close(new[name], gradient, rtol=1e-10, atol=1e-12)


def test_the_traced_model_stays_as_it_was_and_shares_its_parameters(traced, scores) -> None:
    before, state = digest(traced), {k: v.clone() for k, v in traced.state_dict().items()}
    grown = fxgrow.grow(traced, scores, budget=0.3)
    assert digest(traced) == before
    assert traced.act.inplace
    assert all(torch.equal(value, state[name]) for name, value in traced.state_dict().items())
    assert all(grown.get_parameter(name) is parameter for name, parameter in traced.named_parameters())


def test_the_new_parameters_are_listed_and_within_the_budget(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=0.3)
    added = fxgrow.new_parameters(grown)
    assert {name for name, _ in grown.named_parameters()} == {name for name, _ in traced.named_parameters()} | set(
        added
    )
    assert sum(p.numel() for p in added.values()) == parameter_count(grown) - parameter_count(traced)
    assert 0 < parameter_count(grown) - parameter_count(traced) <= 0.3 * parameter_count(traced)


def test_every_new_parameter_moves_by_the_second_step(traced, scores) -> None:
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-3, weight_decay=0)
    grown = fxgrow.grow(traced, scores, budget=0.5, optimizer=optimizer)
    before = {name: p.detach().clone() for name, p in fxgrow.new_parameters(grown).items()}
    for _ in range(2):
        optimizer.zero_grad()
        grown(torch.randn(32, 1, 6, 6)).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in fxgrow.new_parameters(grown).items())


def test_the_history_says_what_grew(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=100, operator="branch", context={"epoch": 3})
    (event,) = record_of(grown).history
    assert (event.parameters_before, event.parameters_after) == (parameter_count(traced), parameter_count(grown))
    assert event.context == {"epoch": 3}
    site = next(site for site in event.growths if site.site == "fc1")
    rows = InsertPseudoLayers(**_rows_of(record_of(grown).edits[-1]), operator="branch").rows["fc1"]
    assert (site.kind, site.path, site.operator) == ("pseudo-layer", "fc1_pseudo_0", "branch")
    assert (event.budget, event.allocation, site.evidence.score) == (100, "even", "eigen")
    assert site.neurons == len(rows)
    assert site.evidence.held_out == pytest.approx(-sum(rows) / len(rows))
    assert site.evidence.stderr == pytest.approx(0.5 / len(rows) ** 0.5)


def _rows_of(edit: str) -> dict[str, dict[str, list[int]]]:
    import json

    return {"rows": json.loads(edit[edit.index('{"') : edit.index("}") + 1])}


def test_growth_repeats_and_stacks(traced, scores, handmade_scores) -> None:
    x, grown = torch.randn(4, 1, 6, 6), traced.eval()
    before = grown(x)
    for event in range(3):
        grown = fxgrow.grow(grown, handmade_scores(grown), budget=0.3, seed=event)
    torch.testing.assert_close(grown(x), before, rtol=1e-5, atol=1e-5)
    assert len(record_of(grown).history) == 3
    assert [edit.split("{")[0] for edit in record_of(grown).edits if "insert" in edit] == ["insert-pseudo-layers"] * 3
    assert max(fxgrow.depth_map(grown)["fc1"]) == 3
    assert {site.site for event in record_of(grown).history for site in event.growths} == {"fc1", "fc2"}


def test_operators_beside_the_site_nest_by_default_and_serial_when_asked(traced, scores, handmade_scores) -> None:
    for operator, options in (("branch", {}), ("serial", {"include": ["fc1_pseudo_0.*"]})):
        grown = fxgrow.grow(traced, scores, budget=0.3, operator=operator)
        nested = fxgrow.grow(grown, handmade_scores(grown), budget=0.3, operator=operator, **options)
        assert any(
            name.startswith("fc1_pseudo_0.") and "_pseudo_0." in name[13:] for name in fxgrow.new_parameters(nested)
        )
        assert max(fxgrow.depth_map(nested)["fc1"]) > 1


def test_growth_is_deterministic_and_leaves_the_global_generator_alone(traced, scores) -> None:
    state = torch.get_rng_state()
    first, second = (fxgrow.grow(traced, scores, budget=0.3, seed=7) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert digest(first) == digest(second)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_gated_starts_along_the_eigenvectors_of_the_scores(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=0.3, operator="gated", include=["fc1"])
    weight, rows = (
        grown.get_parameter("fc1_pseudo_0.branch.weight"),
        scores["fc1"].eigenvectors[-len(scores["fc1"].values) :],
    )
    chosen = rows[list(_rows_of(record_of(grown).edits[-1])["rows"]["fc1"])].float()
    norm = weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close((weight / norm)[chosen.any(1)], chosen[chosen.any(1)])


def test_every_new_node_says_where_it_comes_from(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=0.3)
    new = [node for node in grown.graph.nodes if "pseudo_layer" in annotation(node).get("provenance", {})]
    assert {annotation(node)["provenance"]["pass_name"] for node in new} == {"insert-pseudo-layers"}
    last = len(record_of(grown).edits) - 1
    assert all(annotation(node)["provenance"]["edit"] == last for node in new)
    assert sum(annotation(node)["provenance"]["role"] == "residual-edge" for node in new) == 2


def test_stale_scores_are_refused_after_growth(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=0.3)
    with pytest.raises(PlanError, match="measured on another graph"):
        fxgrow.grow(grown, scores, budget=0.3)


def test_an_optimizer_of_another_model_is_refused_and_unchanged(traced, scores) -> None:
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(PlanError):
        fxgrow.grow(traced, scores, budget=0.3, optimizer=stranger)
    assert len(stranger.param_groups[0]["params"]) == 2


def test_an_in_place_activation_is_made_safe_before_the_graph_grows(traced, scores) -> None:
    grown = fxgrow.grow(traced, scores, budget=100, operator="branch", include=["fc1"])
    assert not grown.act.inplace
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(grown.eval()(x), traced.eval()(x))
