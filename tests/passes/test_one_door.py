"""By function, by pass and by pipeline a rewrite leaves the same record, the same tensors and the same optimizer."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx as fx
from torch import nn
from torch.optim import AdamW, Optimizer

import fxgrow
from fxgrow.passes import Pass, available_passes, parse
from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.passes.deepen import Deepen
from fxgrow.passes.eliminate_dead_code import EliminateDeadCode
from fxgrow.passes.fold_pairs import FoldPairs
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.merge_branches import MergeBranches
from fxgrow.passes.slim import Slim
from fxgrow.passes.spread_residual_edges import SpreadResidualEdges
from fxgrow.passes.undo import Undo
from fxgrow.passes.widen import Widen
from fxgrow.record.record import record_of, update_record
from fxgrow.testing import random_scores, sample_models

Function = Callable[..., fx.GraphModule]
FC1, FC2, QKV = "blocks.0.mlp.fc1", "blocks.1.mlp.fc1", "blocks.0.attn.qkv"


@functools.cache
def traced() -> fx.GraphModule:
    model, inputs = sample_models()["vit"].make(dtype=torch.float64)
    return fxgrow.trace(model, inputs)


def optimizer_of(model: nn.Module) -> Optimizer:
    """Return an optimizer with two groups that has made a step with gradients drawn for every parameter."""
    drawn, groups = np.random.default_rng(0), {True: [], False: []}
    for parameter in model.parameters():
        parameter.grad = torch.from_numpy(drawn.standard_normal(parameter.shape))
        groups[parameter.dim() > 1].append(parameter)
    optimizer = AdamW([{"params": groups[True]}, {"params": groups[False], "weight_decay": 0.0}], lr=0.0)
    optimizer.step()
    return optimizer


def ready_for(name: str) -> fx.GraphModule:
    """Return a graph in which a pass has something to do."""
    base = traced()
    if name == "eliminate-dead-code":
        return _with_dead_code(base)
    if name == "functionalize-inplace":
        return _with_operation_in_place(base)
    operators = {
        "fold-pairs": ["paper"],
        "merge-branches": ["gated"] * 2,
        "spread-residual-edges": ["serial"],
        "undo": ["serial"],
    }
    for operator in operators.get(name, []):
        base = InsertPseudoLayers({FC1: (0, 3)}, operator)(base).graph_module
    return base


def _with_dead_code(base: fx.GraphModule) -> fx.GraphModule:
    graph_module = copy.deepcopy(base)
    first = next(node for node in graph_module.graph.nodes if node.op == "call_module")
    with graph_module.graph.inserting_after(first):
        graph_module.graph.call_function(torch.neg, (first,))
    return graph_module


def _with_operation_in_place(base: fx.GraphModule) -> fx.GraphModule:
    graph_module = copy.deepcopy(base)
    output = graph_module.graph.output_node()
    with graph_module.graph.inserting_before(output):
        output.args = (graph_module.graph.call_method("mul_", (output.args[0], 1.0)),)
    return graph_module


#: each pass, and the function that does the same
DOORS: dict[str, tuple[Pass, Function | None]] = {
    "add-residual-edge": (
        AddResidualEdge("blocks.0", "blocks.1"),
        functools.partial(fxgrow.add_residual_edge, source="blocks.0", target="blocks.1"),
    ),
    "deepen": (Deepen(("blocks.0", "blocks.1")), functools.partial(fxgrow.deepen, blocks=["blocks.0", "blocks.1"])),
    "eliminate-dead-code": (EliminateDeadCode(), None),
    "fold-pairs": (FoldPairs(), fxgrow.fold_pairs),
    "functionalize-inplace": (FunctionalizeInplace(), None),
    "insert-block": (
        InsertBlock(("blocks.0", "blocks.1")),
        functools.partial(fxgrow.insert_block, after=["blocks.0", "blocks.1"]),
    ),
    "insert-half-steps": (InsertHalfSteps({FC1: (0, 3), QKV: (1,)}), None),  # below, as `fxgrow.grow`
    "insert-pseudo-layers": (InsertPseudoLayers({FC1: (0, 3), FC2: (1,)}, "serial"), None),  # below, as `fxgrow.grow`
    "merge-branches": (MergeBranches(), fxgrow.merge_branches),
    "slim": (Slim(0.5), fxgrow.slim),
    "spread-residual-edges": (SpreadResidualEdges(), None),
    "undo": (Undo(), fxgrow.undo),
    "widen": (Widen(QKV, 2, "split"), lambda model, **rest: fxgrow.widen(model, QKV, by=2, how="split", **rest)),
}


def everything(model: fx.GraphModule, optimizer: Optimizer) -> dict[str, Any]:
    """Return all that a rewrite leaves, by name, tensors as lists."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
    state = {names[id(p)]: {key: value.tolist() for key, value in kept.items()} for p, kept in optimizer.state.items()}
    return {
        "record": record_of(model),
        "tensors": [(name, tensor.tolist()) for name, tensor in model.state_dict().items()],
        "parameters": list(names.values()),
        "code": [node.format_node() for node in model.graph.nodes],
        "annotations": [node.meta.get("custom") for node in model.graph.nodes],
        "groups": groups,
        "state": state,
    }


def test_every_pass_has_its_door() -> None:
    assert set(DOORS) == set(available_passes())


@pytest.mark.parametrize("name", DOORS)
def test_all_doors_leave_the_same(name: str) -> None:
    applied, function = DOORS[name]
    before, pipeline = ready_for(name), parse(str(applied))
    doors: list[Function] = [
        lambda model, optimizer: applied(model, optimizer).graph_module,
        lambda model, optimizer: pipeline(model, optimizer).graph_module,
        *([function] if function else []),
    ]
    left = []
    for door in doors:
        optimizer = optimizer_of(before)
        left.append(everything(door(before, optimizer=optimizer), optimizer))
    for other in left[1:]:
        assert other == left[0]


@pytest.mark.parametrize("name", DOORS)
def test_the_optimizer_holds_what_is_there_in_the_order_of_the_model(name: str) -> None:
    before = ready_for(name)
    optimizer = optimizer_of(before)
    result = DOORS[name][0](before, optimizer)
    assert result.modified
    parameters = list(result.graph_module.parameters())
    for group, matrix in zip(optimizer.param_groups, (True, False), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters if (p.dim() > 1) is matrix]
    assert {id(p) for p in optimizer.state} <= {id(p) for p in parameters}


@pytest.mark.parametrize("name", DOORS)
def test_new_parameters_are_there_and_new(name: str) -> None:
    before = ready_for(name)
    after = DOORS[name][0](before).graph_module
    known = {id(parameter) for parameter in before.parameters()}
    added = {name: parameter for name, parameter in after.named_parameters() if id(parameter) not in known}
    listed = fxgrow.new_parameters(after)
    assert listed == (added or {name: p for name, p in fxgrow.new_parameters(before).items() if name in listed})


@pytest.mark.parametrize("name", DOORS)
def test_a_line_is_in_the_history_exactly_where_something_grew(name: str) -> None:
    before = ready_for(name)
    after = DOORS[name][0](before).graph_module
    grew = name in ("add-residual-edge", "deepen", "insert-block", "insert-half-steps", "insert-pseudo-layers", "widen")
    assert len(record_of(after).history) == len(record_of(before).history) + grew - (name == "undo")
    if grew:
        event = record_of(after).history[-1]
        assert sum(growth.parameters for growth in event.growths) == event.parameters_after - event.parameters_before


@pytest.mark.parametrize("operator", ["gated", "half-step", "half-step-apart"])
def test_growing_by_scores_is_the_edit_of_the_plan(operator: str) -> None:
    before, scores = traced(), random_scores(traced())
    options = {"budget": 0.2, "operator": operator, "seed": 3}
    first, second = optimizer_of(before), optimizer_of(before)
    grown = fxgrow.grow(before, scores, optimizer=first, context={"epoch": 1}, **options)
    decided = fxgrow.plan(before, scores, **options)
    edited = decided.edit(scores)(before, second).graph_module
    (event,) = record_of(edited).history
    known = {"budget": decided.budget, "allocation": "even", "scores": scores.evidence()}
    whole = replace(event, context={"epoch": 1}, **known)
    update_record(edited, history=(whole,))
    assert everything(grown, first) == everything(edited, second)


def test_nothing_has_changed_where_a_later_pass_of_a_pipeline_is_refused() -> None:
    before = traced()
    optimizer = optimizer_of(before)
    left = everything(before, optimizer)
    with pytest.raises(fxgrow.FxgrowError, match="pass 2 of 2"):
        parse("insert-block{after=blocks.0},widen{site=nowhere by=2}")(before, optimizer)
    assert everything(before, optimizer) == left
