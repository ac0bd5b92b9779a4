"""Every registered pass on the sample models that it applies to, and passes that break a promise on purpose."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.sharing import share
from fxgrow.graph.sites import find_sites
from fxgrow.passes import Pass, available_passes, find_pass
from fxgrow.testing import check_pass, sample_models

SAMPLES = sample_models()
#: as plain symbolic tracing leaves them, operations in place included
PLAIN = ("resnet", "convolutions", "dense", "attention")


@functools.cache
def traced(sample: str, *, plain: bool = False, dropout: bool = True) -> fx.GraphModule:
    model, inputs = SAMPLES[sample].make(dtype=torch.float64)
    if not dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if not plain:
        return fxgrow.trace(model, inputs)
    graph_module = fx.symbolic_trace(model)
    propagate_shapes(graph_module, inputs)
    return graph_module


def insertion(graph_module: fx.GraphModule, operator: str) -> Pass:
    rows = {path: (0, 1) for path, site in find_sites(graph_module).items() if site.refusal is None}
    return find_pass("insert-pseudo-layers")(rows=rows, operator=operator)


def grown(graph_module: fx.GraphModule, *operators: str) -> fx.GraphModule:
    base = graph_module
    for operator in operators:
        graph_module = insertion(base, operator)(graph_module).graph_module
    return graph_module


def with_dead_code(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Compute something that nobody reads."""
    changed = share(graph_module)
    first = next(iter(changed.graph.find_nodes(op="placeholder")))
    with changed.graph.inserting_after(first):
        dead = changed.graph.call_function(torch.neg, (first,))
    dead.meta["tensor_meta"] = first.meta["tensor_meta"]
    changed.recompile()
    return changed


def as_plain_as_can_be(sample: str) -> fx.GraphModule:
    return traced(sample, plain=sample in PLAIN)


def containers(graph_module: fx.GraphModule) -> list[str]:
    return [path for path, module in graph_module.named_modules() if path and any(module.children())]


def edges(graph_module: fx.GraphModule) -> Iterator[Pass]:
    calls = [node.target for node in graph_module.graph.nodes if node.op == "call_module"]
    for source, target in itertools.combinations(calls, 2):
        yield find_pass("add-residual-edge")(source=source, target=target)


def blocks(graph_module: fx.GraphModule) -> Iterator[Pass]:
    for path in containers(graph_module):
        yield find_pass("insert-block")(after=path)


def half_steps(graph_module: fx.GraphModule, how: str) -> Iterator[Pass]:
    for path in containers(graph_module):
        yield find_pass("deepen")(blocks=(path,), how=how)


def thin_branches(graph_module: fx.GraphModule) -> Iterator[Pass]:
    for site in find_sites(graph_module):
        yield find_pass("insert-half-steps")(units={site: (0, 1)})


def widenings(graph_module: fx.GraphModule) -> Iterator[Pass]:
    for site, heads in itertools.product(find_sites(graph_module), (True, False)):
        yield find_pass("widen")(site=site, by=2, heads=heads)


#: a graph, and passes of which the first that does something to it is tried
Trial = tuple[fx.GraphModule, Iterable[Pass]]


@dataclass(frozen=True)
class Scope:
    """On which sample models a pass does something, and how it is tried there."""

    samples: Collection[str]
    trials: Callable[[str], list[Trial]]


def everywhere_but(*samples: str) -> list[str]:
    return [sample for sample in SAMPLES if sample not in samples]


def alone(name: str, prepare: Callable[[str], fx.GraphModule]) -> Callable[[str], list[Trial]]:
    """Try a pass without options on a graph that is prepared for it."""
    return lambda sample: [(prepare(sample), [find_pass(name)()])]


HIDDEN = ("mlp", "resnet", "vit", "attention", "multihead")  #: those with a width that can change
SCOPES = {
    "add-residual-edge": Scope(
        everywhere_but("reused", "functional"), lambda sample: [(traced(sample), edges(traced(sample)))]
    ),
    "deepen": Scope(
        ("resnet", "vit"),
        lambda sample: [(still := traced(sample, dropout=False), half_steps(still, how)) for how in ("half", "zero")],
    ),
    "eliminate-dead-code": Scope(SAMPLES, alone("eliminate-dead-code", lambda sample: with_dead_code(traced(sample)))),
    "fold-pairs": Scope(SAMPLES, alone("fold-pairs", lambda sample: grown(traced(sample), "paper"))),
    "functionalize-inplace": Scope(
        ("resnet", "convolutions", "dense"), alone("functionalize-inplace", as_plain_as_can_be)
    ),
    "insert-block": Scope(
        ("resnet", "vit", "multihead"), lambda sample: [(still := traced(sample, dropout=False), blocks(still))]
    ),
    "insert-half-steps": Scope(
        ("vit", "attention", "multihead"), lambda sample: [(traced(sample), thin_branches(traced(sample)))]
    ),
    "insert-pseudo-layers": Scope(
        SAMPLES,
        lambda sample: [(traced(sample), [insertion(traced(sample), operator)]) for operator in ("serial", "branch")],
    ),
    "merge-branches": Scope(SAMPLES, alone("merge-branches", lambda sample: grown(traced(sample), "branch", "branch"))),
    "slim": Scope(HIDDEN, alone("slim", traced)),
    "spread-residual-edges": Scope(
        SAMPLES, alone("spread-residual-edges", lambda sample: grown(traced(sample), "serial", "branch"))
    ),
    "undo": Scope(SAMPLES, alone("undo", lambda sample: grown(traced(sample), "serial", "branch"))),
    "widen": Scope(HIDDEN, lambda sample: [(still := traced(sample, dropout=False), widenings(still))]),
}


def first_that_applies(trial: Trial) -> Pass | None:
    """Return the first pass that is not refused and does something."""
    graph_module, passes = trial
    for applied in passes:
        with contextlib.suppress(PassError):
            if applied(graph_module).modified:
                return applied
    return None


def test_no_pass_escapes_the_contract() -> None:
    assert list(SCOPES) == sorted(available_passes())


@pytest.mark.parametrize(
    ("name", "sample"), [(name, sample) for name, scope in SCOPES.items() for sample in scope.samples]
)
def test_every_pass_keeps_its_promises_where_it_applies(name: str, sample: str) -> None:
    for trial in SCOPES[name].trials(sample):
        applied = first_that_applies(trial)
        assert applied is not None
        assert check_pass(applied, trial[0]).modified


@pytest.mark.parametrize("name", [name for name, scope in SCOPES.items() if set(scope.samples) < set(SAMPLES)])
def test_a_pass_applies_to_no_other_sample_model(name: str) -> None:
    for sample in everywhere_but(*SCOPES[name].samples):
        for trial in SCOPES[name].trials(sample):
            assert first_that_applies(trial) is None, sample


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", ["eliminate-dead-code", "functionalize-inplace"])
def test_normalisations_find_nothing_to_do_in_what_was_traced(name: str, sample: str) -> None:
    assert not check_pass(find_pass(name)(), traced(sample)).modified


@pytest.mark.parametrize("sample", PLAIN)
def test_operations_in_place_are_no_dead_code(sample: str) -> None:
    assert not check_pass(find_pass("eliminate-dead-code")(), traced(sample, plain=True)).modified


@pytest.mark.parametrize("sample", ["resnet", "vit"])
def test_growth_keeps_its_promises_on_what_has_grown_before(sample: str) -> None:
    graph_module = grown(traced(sample), "serial", "branch")
    deeper = {path: (0,) for path, site in find_sites(graph_module).items() if "_pseudo_" in path and not site.refusal}
    assert deeper
    check_pass(find_pass("insert-pseudo-layers")(rows=deeper), graph_module)
