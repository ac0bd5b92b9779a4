"""What the compile benchmark's measurements say of small models whose answers are known."""

import json
from pathlib import Path

import compiling
import pytest
import torch
from torch import nn

pytest.importorskip("timm")

from compile_speed import events, memory, rewriting
from compile_speed.models import deep_mlp, random_scores, small_transformer
from compile_speed.step_time import flops
from measuring import timing

import fxgrow


def test_an_event_that_changes_two_equal_blocks_compiles_one_graph() -> None:
    graphs, difference = events._grow(2, "eager")
    assert graphs == [3, 1, 1]
    assert difference < 1e-5


def test_the_peak_of_allocations_is_that_of_the_largest_moment() -> None:
    def allocate() -> torch.Tensor:
        for _ in range(3):
            torch.zeros(100_000)  # freed at once
        return torch.zeros(50_000)

    result, peak = memory.peak_allocation(allocate)
    assert result.nbytes == 200_000
    assert 400_000 <= peak < 450_000


def test_growth_allocates_little_beyond_its_parameters_and_shares_the_old_ones() -> None:
    traced = small_transformer(4, width=64)
    scores = random_scores(traced, eigenvectors=True)
    grown, peak = memory.peak_allocation(lambda: fxgrow.grow(traced, scores, budget=0.5, operator="serial"))
    new = memory.new_bytes(traced, grown)
    assert new == sum(parameter.nbytes for parameter in fxgrow.new_parameters(grown).values())
    assert peak < 1.25 * new
    assert memory.shared(traced, grown) == 1


def test_flops_count_each_matrix_product_forward_and_backward() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2, bias=False)))
    one_product = 2 * 5 * (8 * 4 + 4 * 2)
    no_gradient_of_the_input = 2 * 5 * 8 * 4
    assert flops(traced, torch.randn(5, 8)) == 3 * one_product - no_gradient_of_the_input


def test_the_exponent_of_a_power_law_is_its_power() -> None:
    assert timing.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_scaling_reports_a_time_for_each_size_and_an_exponent() -> None:
    times, fitted = rewriting.scaling("deep MLP", deep_mlp, (20, 40))
    assert times["value"].count(":") == 2
    assert fitted["target"] == "at most 1.1"


def test_the_page_has_a_table_for_each_section_that_was_run(tmp_path: Path) -> None:
    row = {"what": "a ratio", "value": "1.00", "target": "at most 1"}
    content = {"section": "memory", "quick": True, "machine": "a machine", "rows": [row]}
    (tmp_path / "memory.json").write_text(json.dumps(content))
    text = compiling.BENCHMARK.page(tmp_path)
    assert "| a ratio | 1.00 | at most 1 |" in text
    assert "small sizes" in text
    assert "Rewriting" not in text
