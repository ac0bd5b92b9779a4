"""Random chains of residual blocks: shapes are kept, half-steps are what they are called, silent copies are silent."""

from typing import Any

import numpy as np
import torch
import torch.fx as fx
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.passes.deepen import Deepen
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.primitives.modules import parameter_count
from fxgrow.progressive import Progressive, Stage
from fxgrow.testing import check_pass
from fxgrow.widths.branch_units import BranchUnits, find_branch_units

WIDTH = 4
BEFORE, INSIDE, BEHIND = (
    ("nothing", "norm"),
    ("linear", "mlp", "gated"),
    ("nothing", "norm", "scale", "dropout", "view"),
)


class Block(nn.Module):
    """Residual branches as a recipe says, one after the other: what stands before, inside and at their ends."""

    def __init__(self, recipe: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.recipe = recipe
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in recipe)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in recipe)
        self.downs = nn.ModuleList(nn.Linear(WIDTH if kind == "linear" else 2 * WIDTH, WIDTH) for _, kind, _ in recipe)
        self.ends = nn.ModuleList(nn.LayerNorm(WIDTH) if end == "norm" else nn.Dropout(0.0) for *_, end in recipe)
        self.scales = nn.ParameterList(torch.ones(WIDTH) for *_, end in recipe if end == "scale")

    def steps(self, x: Tensor, size: float) -> Tensor:
        scales = iter(self.scales)
        for index, (before, inside, end) in enumerate(self.recipe):
            h = self.norms[index](x) if before == "norm" else x
            if inside != "linear":
                up = self.ups[index](h)
                h = F.gelu(up) * up.sigmoid() if inside == "gated" else F.gelu(up)
            h = self.downs[index](h)
            h = self.ends[index](h) if end in ("norm", "dropout") else next(scales) * h if end == "scale" else h
            h = h.reshape(-1, 2, WIDTH // 2).flatten(1) if end == "view" else h
            x = x + h if size == 1 else x + size * h
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x, 1)


RECIPES = st.lists(st.tuples(*map(st.sampled_from, (BEFORE, INSIDE, BEHIND))), min_size=1, max_size=2)


def build(recipe: list[tuple[str, str, str]], blocks: int, seed: int) -> tuple[nn.Sequential, Tensor]:
    draw = np.random.default_rng(seed)
    model = nn.Sequential(*[Block(recipe) for _ in range(blocks)]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.5 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    return model, torch.from_numpy(draw.standard_normal((3, WIDTH)))


@settings(max_examples=12)
@given(recipe=RECIPES, data=st.data(), seed=st.integers(0, 99))
def test_silent_copies_are_exact_and_half_steps_keep_the_shapes(recipe, data, seed) -> None:  # type: ignore[no-untyped-def]
    model, x = build(recipe, 3, seed)
    traced = fxgrow.trace(model, x, check=False)
    chosen = sorted(data.draw(st.sets(st.integers(0, 2), min_size=1)))
    paths = tuple(str(index) for index in chosen)
    silent = check_pass(Deepen(paths, "zero"), traced, x).graph_module
    torch.testing.assert_close(silent(x), traced(x), rtol=0, atol=1e-10)
    halved = check_pass(Deepen(paths, "half"), traced, x).graph_module
    expected = x
    for index, block in enumerate(model):
        expected = block.steps(block.steps(expected, 0.5), 0.5) if index in chosen else block(expected)
    torch.testing.assert_close(halved(x), expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=12)
@given(recipe=RECIPES, data=st.data(), seed=st.integers(0, 99))
def test_stages_of_any_kind_end_in_the_model_itself(recipe, data, seed) -> None:  # type: ignore[no-untyped-def]
    model, x = build(recipe, 4, seed)
    first = data.draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))
    second = first | data.draw(st.sets(st.integers(0, 3)))
    parts = [first] if second in (first, {0, 1, 2, 3}) else [first, second]  # each stage wakes something
    stages = [Stage(depth=tuple(str(index) for index in sorted(chosen))) for chosen in parts]
    growing = Progressive(model, x, stages=stages)
    known = x
    for index, block in enumerate(model):
        known = block(known) if index in first else known
    torch.testing.assert_close(growing(x), known, rtol=1e-12, atol=1e-12)
    while growing.stage + 1 < len(growing.stages):
        growing.advance()
    assert growing.idle == ()
    assert torch.equal(growing(x), model(x))


def chosen_units(draw: Any, graph_module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Draw units at some of the sites that have any."""
    known = find_branch_units(graph_module).found
    assume(known)
    sites = draw(st.sets(st.sampled_from(sorted(known)), min_size=1, max_size=3))
    return {site: _some(draw, known[site]) for site in sorted(sites)}


def _some(draw: Any, units: BranchUnits) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(0, units.count - 1), min_size=1))))


class Halved(fx.Interpreter):
    """Runs the graph before a rewrite with the thin branches computed from the whole ones, by what they are called."""

    def __init__(self, graph_module: fx.GraphModule, units: dict[str, tuple[int, ...]]) -> None:
        super().__init__(graph_module)
        found = find_branch_units(graph_module).found
        self.steps = {found[site].branch.step.exit: [] for site in units}
        for site, chosen in reversed(units.items()):
            self.steps[found[site].branch.step.exit].append((found[site], chosen))

    def run_node(self, n: fx.Node) -> Any:
        if n in self.weights:
            args, _ = self.fetch_args_kwargs_from_env(n)
            site, factor = self.weights[n]
            bias = self.module.get_parameter(site.bias)
            return torch.nn.functional.linear(args[0] * factor, self.module.get_parameter(site.weight), bias)
        value = super().run_node(n)
        for units, chosen in self.steps.get(n, ()):
            value = value + self._thin(units, chosen, value)
        return value

    def _thin(self, units: BranchUnits, chosen: tuple[int, ...], value: Tensor) -> Tensor:
        env = dict(self.env)
        self.env[units.branch.step.entry] = value
        half = torch.where(torch.isin(units.columns, torch.tensor(chosen)), 0.5, 0.0).double()
        for node in units.branch.nodes:
            if node is units.last.calls[0]:
                read = self.fetch_args_kwargs_from_env(node)[0][0]
                self.env[node] = (read * half) @ self.module.get_parameter(units.last.weight).T
            else:
                self.env[node] = super().run_node(node)
        added: Tensor = self.env[units.branch.value]
        self.env = env
        return added

    def expected(self, x: Tensor, units: dict[str, tuple[int, ...]]) -> Tensor:
        found = find_branch_units(self.module).found
        self.weights = {}
        for site, chosen in units.items():
            last = found[site].last
            own = torch.where(torch.isin(found[site].columns, torch.tensor(chosen)), 0.5, 1.0).double()
            self.weights[last.calls[0]] = (last, own)
        self.garbage_collect_values = False
        result: Tensor = self.run(x)
        return result


@settings(max_examples=8)
@given(recipe=RECIPES, data=st.data(), seed=st.integers(0, 99))
def test_half_steps_of_units_are_half_steps_and_nest(recipe: Any, data: Any, seed: int) -> None:
    model, x = build(recipe, 2, seed)
    assert isinstance(model, nn.Sequential)
    graph_module = fxgrow.trace(model, x, check=False)
    for _ in range(data.draw(st.integers(1, 2))):
        units = chosen_units(data.draw, graph_module)
        expected = Halved(graph_module, units).expected(x, units)
        known = find_branch_units(graph_module).found
        price = sum(known[site].price(len(chosen)) for site, chosen in units.items())
        grown = check_pass(InsertHalfSteps(units), graph_module, x).graph_module
        torch.testing.assert_close(grown(x), expected, rtol=1e-10, atol=1e-10)
        assert parameter_count(grown) - parameter_count(graph_module) == price
        for site, chosen in units.items():
            before, after = fxgrow.depth_map(graph_module)[site], fxgrow.depth_map(grown)[site]
            assert all(after[row] > before[row] for row in chosen)
        graph_module = grown
