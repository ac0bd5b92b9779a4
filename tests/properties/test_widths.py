"""Random networks, every width that can change: widening keeps the function, blocks come off bit for bit."""

import torch
import torch.fx as fx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.passes import Pass
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.passes.slim import Slim
from fxgrow.passes.widen import Widen
from fxgrow.record.digest import digest
from fxgrow.testing import RandomNetwork, graph_modules

Drawn = tuple[RandomNetwork, tuple[Tensor, ...]]
slow = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def traced(drawn: Drawn) -> fx.GraphModule:
    network, inputs = drawn
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return fxgrow.trace(network, inputs)


def modes(drawn: Drawn) -> tuple[str, ...]:
    """Functional dropout cannot be switched off, and a copied block draws numbers of its own."""
    return ("eval",) if "dropout" in repr(drawn[0]) else ("eval", "train")


def attempt(applied: Pass, before: fx.GraphModule) -> tuple[fx.GraphModule | None, str]:
    """Return what a pass makes of a graph, or why it refuses."""
    try:
        return applied(before).graph_module, ""
    except PassError as error:
        return None, str(error)


@slow
@given(graph_modules(), st.sampled_from(["pairs", "split"]), st.booleans())
def test_widening_any_site_keeps_the_function_or_is_refused(drawn: Drawn, how: str, heads: bool) -> None:
    before = traced(drawn)
    for site in fxgrow.find_sites(before):
        after, refusal = attempt(Widen(site, 2, how, heads), before)
        if after is None:
            assert refusal.startswith(f"{site}: ")
        else:
            fxgrow.verify(before, after, drawn[1])


@slow
@given(graph_modules())
def test_a_slim_network_runs_on_the_same_inputs(drawn: Drawn) -> None:
    before = traced(drawn)
    after, refusal = attempt(Slim(), before)
    if after is None:
        assert "no width can change" in refusal
        return
    outputs = [value for model in (before, after) for value in torch.utils._pytree.tree_leaves(model(*drawn[1]))]
    half = len(outputs) // 2
    assert [value.shape for value in outputs[:half]] == [value.shape for value in outputs[half:]]
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())


@slow
@given(graph_modules())
def test_any_block_that_can_be_copied_is_the_identity_and_comes_off(drawn: Drawn) -> None:
    before = traced(drawn)
    for path, _ in list(before.named_modules())[1:]:
        after, refusal = attempt(InsertBlock(path), before)
        if after is None:
            assert refusal.startswith(f"{path}: ")
            continue
        fxgrow.verify(before, after, drawn[1], modes=modes(drawn))
        assert digest(fxgrow.undo(after)) == digest(before)
