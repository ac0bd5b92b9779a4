"""Planted faults: the random networks must find them.

The search draws the same networks every time, and they have the same values on every processor: what is found once is
found always.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx as fx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxgrow.errors import VerificationError
from fxgrow.primitives.residual import add_rows
from fxgrow.testing import graph_modules, rewrite_at_random
from fxgrow.testing.networks import RandomNetwork

Plant = Callable[[pytest.MonkeyPatch], None]


@settings(
    max_examples=400, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
@given(graph_modules(), st.data())
def search(drawn: tuple[RandomNetwork, tuple[Tensor, ...]], data: st.DataObject) -> None:
    rewrite_at_random(data.draw, *drawn)


def functionalize_without_redirecting(patch: pytest.MonkeyPatch) -> None:
    """Let who reads an overwritten value later read what it was before."""

    def rewrite(graph_module: fx.GraphModule) -> None:
        for node in graph_module.graph.find_nodes(op="call_module"):
            module = graph_module.get_submodule(node.target)
            if getattr(module, "inplace", False):
                functional = copy.deepcopy(module)
                functional.inplace = False
                graph_module.set_submodule(node.target, functional)

    for user in ("fxgrow.passes.functionalize_inplace", "fxgrow.tracing.faithful", "fxgrow.tracing.entry"):
        patch.setattr(f"{user}.normalise", rewrite)


def off_by_a_billionth(patch: pytest.MonkeyPatch) -> None:
    """Let a residual edge scale what it carries."""

    def off(output: Tensor, *arguments: Any) -> Tensor:
        return add_rows(output * (1 + 1e-9), *arguments)

    patch.setattr("fxgrow.passes.insert_pseudo_layers.add_rows", off)


def eliminate_dropout(patch: pytest.MonkeyPatch) -> None:
    """Let dead code elimination bypass dropout, which is the identity in eval mode only."""

    def rewrite(self: object, graph_module: fx.GraphModule) -> None:
        for node in graph_module.graph.find_nodes(op="call_module"):
            if isinstance(graph_module.get_submodule(node.target), torch.nn.Dropout):
                node.replace_all_uses_with(node.args[0])

    patch.setattr("fxgrow.passes.eliminate_dead_code.EliminateDeadCode.rewrite", rewrite)


@pytest.mark.parametrize("plant", [functionalize_without_redirecting, off_by_a_billionth, eliminate_dropout])
def test_a_planted_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(VerificationError, match="it differs by"):
        search()
