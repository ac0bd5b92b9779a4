"""Undoing gives back the graph that was there, bit for bit, and touches no parameter of the base."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

import fxgrow
from fxgrow.errors import PassError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.operators import available_operators
from fxgrow.passes import parse
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.undo import Undo
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import sample_models

GraphModule = torch.fx.GraphModule


@cache
def traced(name: str = "vit") -> GraphModule:
    model, inputs = sample_models()[name].make(dtype=torch.float64)
    return fxgrow.trace(model, inputs)


def pseudo_layers(site: str, *rows: int, operator: str = "gated") -> Callable[[GraphModule], GraphModule]:
    return lambda graph_module: InsertPseudoLayers({site: rows}, operator)(graph_module).graph_module


def edge(source: str, target: str) -> Callable[[GraphModule], GraphModule]:
    return lambda graph_module: fxgrow.add_residual_edge(graph_module, source=source, target=target)


def block(after: str) -> Callable[[GraphModule], GraphModule]:
    return lambda graph_module: fxgrow.insert_block(graph_module, after=after)


@pytest.mark.parametrize("name", sample_models())
@pytest.mark.parametrize("operator", available_operators())
def test_growth_anywhere_comes_off_bit_for_bit(name: str, operator: str) -> None:
    base = traced(name)
    rows = {path: (0, site.neurons - 1) for path, site in fxgrow.find_sites(base).items() if site.refusal is None}
    grown = InsertPseudoLayers(rows, operator)(base).graph_module
    undone = fxgrow.undo(grown)
    assert digest(undone) == digest(base) == record_of(grown).base_digest
    assert list(undone.state_dict()) == list(base.state_dict())
    assert all(undone.get_parameter(name) is parameter for name, parameter in base.named_parameters())
    assert record_of(undone).edits == ()


@pytest.mark.parametrize(
    "edits",
    [
        (pseudo_layers("blocks.0.mlp.fc1", 1, 4, operator="serial"), pseudo_layers("blocks.0.mlp.fc1_pseudo_0.fc1", 0)),
        (block("blocks.0"), pseudo_layers("blocks.2.attn.qkv", 3), edge("blocks.0", "blocks.2")),
        (pseudo_layers("blocks.0.mlp.fc1", 1), block("blocks.0"), block("blocks.2")),
        (edge("blocks.0", "blocks.1"), edge("blocks.0", "blocks.1")),
        (pseudo_layers("blocks.0.mlp.fc1", 1, operator="paper"), fxgrow.fold_pairs),
        (pseudo_layers("blocks.0.mlp.fc1", 1), pseudo_layers("blocks.0.mlp.fc1", 1, 2), fxgrow.merge_branches),
    ],
)
def test_edits_on_top_of_each_other_come_off_bit_for_bit(
    edits: tuple[Callable[[GraphModule], GraphModule], ...],
) -> None:
    base = grown = traced()
    for edit in edits:
        grown = edit(grown)
    undone = fxgrow.undo(grown)
    assert digest(undone) == digest(base)
    assert [node.format_node() for node in undone.graph.nodes] == [node.format_node() for node in base.graph.nodes]
    assert (record_of(undone).edits, record_of(undone).history) == ((), ())


def test_a_block_without_a_residual_branch_comes_off_with_its_gate() -> None:
    base = traced("mlp")
    undone = fxgrow.undo(fxgrow.insert_block(base, after="1"))
    assert digest(undone) == digest(base)
    assert list(undone.state_dict()) == list(base.state_dict())


def test_outputs_after_training_are_those_of_the_trained_base() -> None:
    base = traced()
    grown = pseudo_layers("blocks.1.mlp.fc1", 0, 1)(base)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    grown(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(fxgrow.undo(grown).eval()(x), base.eval()(x))


def test_the_last_event_alone_comes_off_and_the_log_ends_before_it() -> None:
    first = block("blocks.0")(traced())
    both = edge("blocks.0", "blocks.1")(first)
    undone = fxgrow.undo(both, [1])
    assert digest(undone) == digest(first)
    assert record_of(undone).edits == record_of(first).edits
    assert record_of(undone).history == record_of(first).history


def test_an_earlier_event_alone_comes_off_and_the_log_replays() -> None:
    base = traced()
    both = edge("blocks.0", "blocks.1")(block("blocks.0")(base))
    undone = fxgrow.undo(both, [0])
    assert record_of(undone).edits[-1] == "undo{edits=[0]}"
    (event,) = record_of(undone).history
    assert event.growths[0].kind == "residual-edge"
    replayed = base
    for edit in record_of(undone).edits:
        replayed = parse(edit)(replayed).graph_module
    assert digest(replayed) == digest(undone)
    assert digest(fxgrow.undo(undone)) == digest(base)


def test_the_optimizer_drops_what_goes_and_keeps_the_rest() -> None:
    base = traced()
    optimizer = torch.optim.AdamW(base.parameters(), lr=0.01)
    grown = fxgrow.insert_block(base, after="blocks.0", optimizer=optimizer)
    grown(torch.randn(2, 3, 16, 16, dtype=torch.float64)).sum().backward()
    optimizer.step()
    kept = {p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in base.parameters()}
    undone = fxgrow.undo(grown, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in base.parameters()]
    assert set(optimizer.state) == set(kept)
    for parameter in undone.parameters():
        assert all(torch.equal(value, kept[parameter][key]) for key, value in optimizer.state[parameter].items())


def test_undoing_works_after_a_round_trip_through_a_file(tmp_path) -> None:
    model, inputs = sample_models()["vit"].make()
    base = fxgrow.trace(model, inputs)
    grown = block("blocks.0")(pseudo_layers("blocks.0.mlp.fc1", 1)(base))
    fxgrow.save(grown, tmp_path / "model.pt")
    undone = fxgrow.undo(fxgrow.load(tmp_path / "model.pt", base=model))
    assert digest(undone) == digest(base)


def test_a_second_undo_changes_nothing() -> None:
    once = Undo()(block("blocks.0")(traced())).graph_module
    assert not Undo()(once).modified


def test_what_something_else_grew_inside_of_is_refused_alone() -> None:
    grown = pseudo_layers("blocks.2.mlp.fc1", 0)(block("blocks.0")(traced()))
    with pytest.raises(PassError, match=r"edit 1 .*it grew at blocks.2.mlp.fc1, which would go; undo edit 1 too"):
        Undo((0,))(grown)


def test_a_value_that_is_read_elsewhere_is_refused_alone() -> None:
    grown = edge("blocks.2.mlp.act", "blocks.1.mlp.act")(block("blocks.0")(traced()))
    with pytest.raises(PassError, match=r"is read by .*, which is no part of it"):
        Undo((0,))(grown)


def test_one_of_several_that_were_merged_is_refused_alone() -> None:
    grown = pseudo_layers("blocks.0.mlp.fc1", 1)(traced())
    merged = fxgrow.merge_branches(pseudo_layers("blocks.0.mlp.fc1", 1, 2)(grown))
    with pytest.raises(PassError, match="edits 0, 1 were merged; undo them together"):
        Undo((1,))(merged)


@pytest.mark.parametrize(("edits", "message"), [((7,), "the log has 1 edits"), ((-1,), "the log has 1 edits")])
def test_an_edit_that_is_not_there_is_refused(edits: tuple[int, ...], message: str) -> None:
    with pytest.raises(PassError, match=message):
        Undo(edits)(block("blocks.0")(traced()))


def test_an_event_that_is_not_there_is_refused() -> None:
    with pytest.raises(PassError, match="growth event 3: the history has 1 events; name events from 0 to 0"):
        fxgrow.undo(block("blocks.0")(traced()), [3])


def test_what_replaced_parameters_cannot_be_undone_but_what_was_inserted_since_can() -> None:
    base = fxgrow.widen(traced(), "blocks.0.attn.qkv", by=2)
    grown = block("blocks.0")(base)
    with pytest.raises(PassError, match=r"edit 0 \(widen.*: it changed what was there, and cannot be undone"):
        fxgrow.undo(grown)
    assert digest(fxgrow.undo(grown, [1])) == digest(base)
    with pytest.raises(
        PassError, match="growth event 0: a grown width cannot be undone; name only what inserted something"
    ):
        fxgrow.undo(grown, [0])


def test_a_widening_behind_an_insertion_is_named() -> None:
    grown = fxgrow.widen(block("blocks.0")(traced()), "blocks.0.attn.qkv", by=2)
    with pytest.raises(PassError, match=r"edit 1 \(widen.*it changed what was there, and cannot be undone"):
        Undo()(grown)


def test_normalisation_of_operations_in_place_stays() -> None:
    model, inputs = sample_models()["resnet"].make()
    plain = torch.fx.symbolic_trace(model)
    propagate_shapes(plain, inputs)
    functional = FunctionalizeInplace()(plain).graph_module
    undone = fxgrow.undo(pseudo_layers("blocks.0.conv1", 1)(functional))
    assert digest(undone) == digest(functional)
    assert record_of(undone).edits == ("functionalize-inplace",)
