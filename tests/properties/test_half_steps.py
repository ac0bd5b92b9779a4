"""Random chains of residual blocks: half-steps of chosen units are what they are called, again and again."""

from typing import Any

import torch
import torch.fx as fx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.primitives.modules import parameter_count
from fxgrow.testing import check_pass
from fxgrow.widths.branch_units import BranchUnits, find_branch_units
from tests.properties.test_deepening import RECIPES, build


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


@settings(max_examples=15)
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
            assert [depth - old for depth, old in zip(after, before, strict=True)] == [
                int(row in chosen) for row in range(len(before))
            ]
        graph_module = grown
