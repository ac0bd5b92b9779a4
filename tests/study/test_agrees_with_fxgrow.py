"""The batched engine rewrites stacked parameters itself; what it makes is what fxgrow's rewrite makes of the graph."""

import re

import pytest
import torch
from small import BLOCKS, IMAGES, MLP, TEXT, source, task
from study.arms import depth
from study.block_scores import scores
from study.networks import Architecture, Network, plain
from study.pseudo import PseudoLayers
from study.rewrites import Copies, HalfSteps, Rewrite, Site
from study.state import State, initial
from study.tasks import batch

import fxgrow
from fxgrow.passes import parse

SEEDS = (0, 1)


def _network(architecture: Architecture, state: State, index: int) -> Network:
    network = Network(architecture, state.shapes)
    network.load_state_dict({name: value[index] for name, value in state.values().items()})
    return plain(network)


@pytest.mark.parametrize(("how", "rewrite"), [("half", HalfSteps()), ("zero", Copies())], ids=["half", "zero"])
@pytest.mark.parametrize("architecture", [MLP, TEXT, IMAGES])
def test_half_steps_and_silent_copies_are_those_of_deepen(
    how: str, rewrite: Rewrite, architecture: Architecture
) -> None:
    state = initial(architecture, depth(BLOCKS[architecture], 2), SEEDS)
    grown = rewrite(state, Site(architecture, SEEDS, 1, lambda: pytest.fail("nothing is to be drawn")))
    x = source(architecture).test_x
    for index in range(len(SEEDS)):
        traced = fxgrow.trace(_network(architecture, state, index), x[:4])
        deeper = fxgrow.deepen(traced, ["blocks.0", "blocks.1"], how=how)
        torch.testing.assert_close(deeper(x), _network(architecture, grown, index)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["serial", "branch", "gated"])
def test_pseudo_layers_are_the_operators_of_fxgrow(kind: str) -> None:
    state = initial(MLP, depth(BLOCKS[MLP], 1), (0,))
    grown = PseudoLayers(kind, 3)(state, Site(MLP, (0,), 1, lambda: pytest.fail("nothing is to be drawn")))
    moved = grown.map(lambda value: value + torch.linspace(-0.1, 0.1, value.numel()).view_as(value))
    x = source(MLP).test_x
    own = _network(MLP, moved, 0)
    sites = ("blocks.0.mlp.fc1", "blocks.0.mlp.out")
    rows = ",".join(f'"{site}":[0,1,2]' for site in sites)
    traced = fxgrow.trace(_network(MLP, state, 0), x[:4])
    graph = parse(f"insert-pseudo-layers{{rows={{{rows}}} operator={kind}}}")(traced).graph_module
    torch.testing.assert_close(graph(x), _network(MLP, grown, 0)(x), rtol=1e-4, atol=1e-5)
    named = {re.sub(r"at_(\w+)\.", r"\1_pseudo_0.", name): value for name, value in own.state_dict().items()}
    assert not graph.load_state_dict(named, strict=False).unexpected_keys
    torch.testing.assert_close(graph(x), own(x), rtol=1e-4, atol=1e-5)


def test_blocks_have_the_numbers_of_rank_blocks() -> None:
    small = task(MLP, batch=64)
    state = initial(MLP, depth(BLOCKS[MLP], 3), SEEDS)
    x, y = batch(source(MLP), small, SEEDS, -1, 1.0)
    with torch.no_grad():  # as in a run
        found = scores(source(MLP))["eigen"](state, Site(MLP, SEEDS, 1, lambda: (x, y)))
    for index in range(len(SEEDS)):
        traced = fxgrow.trace(_network(MLP, state, index), x[index, :4])
        batches = [(x[index, part::4], y[index, part::4]) for part in range(4)]
        ranked = fxgrow.rank_blocks(traced, fxgrow.analyze(traced, torch.nn.functional.cross_entropy, batches))
        assert [ranked[f"blocks.{block}"] for block in range(3)] == pytest.approx(found[index].tolist(), rel=1e-4)
