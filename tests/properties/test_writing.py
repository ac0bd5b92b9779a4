"""Programs that write in place through views: their normal form computes the same, and nothing hangs on them."""

import copy
import operator

import numpy as np
import pytest
import torch
import torch.fx as fx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.curvature.probe_data import FewSamplesWarning
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.normalisation import normalise

Step = tuple[str, int, int]

KEYS = [(slice(None), 0), (..., slice(1, 3)), (0,), (slice(None), slice(None))]
STEPS = ("linear", "tanh", "item", "view", "transposed", "add_", "mul_", "relu_", "copy_", "fill_", "setitem",
         "index_put_", "plus")  # fmt: skip


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def program(steps: list[Step]) -> fx.GraphModule:
    """Build a graph on values of shape (3, 4): whatever is written is memory that a linear map or a sum made."""
    root = nn.Module().double()
    root.first, root.inner, root.last = (nn.Linear(4, 4).double() for _ in range(3))
    for number, parameter in enumerate(root.parameters()):
        parameter.data = values(*parameter.shape, seed=number) / 2
    root.register_buffer("item", torch.tensor(0.5).double())
    for row in range(3):
        root.register_buffer(f"row_{row}", torch.tensor([row]))
    graph = fx.Graph()
    whole = [graph.call_module("first", (graph.placeholder("x"),))]
    parts: list[tuple[fx.Node, tuple[object, ...] | None]] = []  # views, and the key of an item
    whole.append(graph.call_method("clone", (whole[0],)))
    for kind, index, key in steps:
        value = whole[index % len(whole)]
        part = parts[index % len(parts)] if parts else (value, None)
        written = part[0] if key % 2 else value
        if kind == "linear":
            whole.append(graph.call_module("inner", (value,)))
        elif kind == "tanh":
            whole.append(graph.call_function(torch.tanh, (value,)))
        elif kind == "plus":
            whole.append(graph.call_function(operator.add, (value, whole[key % len(whole)])))
        elif kind == "item":
            parts.append((graph.call_function(operator.getitem, (value, KEYS[key % len(KEYS)])), None))
        elif kind == "view":
            parts.append((graph.call_method("view", (value, -1)), None))
        elif kind == "transposed":
            parts.append((graph.call_method("t", (value,)), None))
        elif kind in ("add_", "mul_", "fill_"):
            graph.call_method(kind, (written, 1.5))
        elif kind == "relu_":
            graph.call_function(torch.relu_, (written,))
        elif kind == "copy_":
            # like exp, autograd keeps its result; unlike exp, eight of them do not overflow
            graph.call_method("copy_", (value, graph.call_method("sigmoid", (whole[key % len(whole)],))))
        elif kind == "setitem":
            item = graph.call_method("mean", (whole[key % len(whole)],))
            graph.call_function(operator.setitem, (value, KEYS[index % len(KEYS)], item))
        else:
            graph.call_method("index_put_", (value, (graph.get_attr(f"row_{key % 3}"),), graph.get_attr("item")))
    ends = [graph.call_method("sum", (part,)) for part, _ in parts]
    total = graph.call_module("last", (whole[-1],))
    for end in ends:
        total = graph.call_function(operator.add, (total, end))
    graph.output(total)
    return fx.GraphModule(root, graph)


steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8)


def runs(graph_module: fx.GraphModule) -> bool:
    """Say whether autograd lets the program write as it does."""
    try:
        graph_module(values(3, 4)).sum().backward()
    except RuntimeError:
        return False
    return True


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.booleans())
def test_the_normal_form_computes_the_same(drawn: list[Step], shapes: bool) -> None:
    before = program(drawn)
    if not runs(before):
        return
    after = copy.deepcopy(before)
    if shapes:
        propagate_shapes(after, values(3, 4))
    normalise(after)
    after.graph.lint()
    after.recompile()
    fxgrow.verify(before, after, values(3, 4), modes=("eval",), batch_sizes=(3,))


@pytest.mark.filterwarnings("ignore::fxgrow.curvature.probe_data.FewSamplesWarning")
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps)
def test_analysis_ends_and_growth_keeps_the_function_or_is_refused(drawn: list[Step]) -> None:
    graph_module = program(drawn)
    if not runs(graph_module):
        return
    batches = [(values(3, 4, seed=seed), values(3, 4, seed=9 + seed)) for seed in range(2)]
    scores = fxgrow.analyze(graph_module, nn.functional.mse_loss, batches, iterations=2)
    assert all(torch.isfinite(site.values).all() for site in scores.values())
    for operator_name in ("serial", "branch"):
        try:
            grown = fxgrow.grow(graph_module, scores, budget=40, operator=operator_name)
        except fxgrow.FxgrowError:
            continue
        fxgrow.verify(graph_module, grown, values(3, 4), modes=("eval",), batch_sizes=(3,))


class FrozenInside(nn.Module):
    """Trains, though what the frozen layer reads is overwritten: such a layer keeps no input."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.first, self.last, self.written = nn.Linear(6, 12), nn.Linear(12, 3), written
        self.frozen = nn.Linear(12, 12).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).clone()
        if self.written == "assignment":
            h[:, 0] = self.frozen(h[:, 0])
        elif self.written == "copy_":
            h[:, 0].copy_(self.frozen(h[:, 0]))
        else:
            view = h.view(-1, 12)
            view.mul_(self.frozen(view).sigmoid())
        return self.last(torch.tanh(h).mean(1))


@pytest.mark.parametrize("written", ["assignment", "copy_", "view"])
def test_a_site_whose_input_is_overwritten_through_a_view_is_scored(written: str) -> None:
    traced = fxgrow.trace(FrozenInside(written).double(), values(8, 5, 6))
    batches = [(values(8, 5, 6, seed=seed), values(8, 3, seed=9 + seed)) for seed in range(2)]
    with pytest.warns(FewSamplesWarning):
        scores = fxgrow.analyze(traced, nn.functional.mse_loss, batches, iterations=2)
    assert set(scores) == {"first", "frozen", "last"}
