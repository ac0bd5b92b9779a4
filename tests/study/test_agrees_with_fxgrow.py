"""The batched engine rewrites stacked parameters itself; what it makes is what fxgrow's rewrite makes of the graph."""

import pytest
import torch
from small import BLOCKS, IMAGES, MLP, TEXT, source
from study.arms import depth
from study.networks import Architecture, Network, plain
from study.rewrites import Copies, HalfSteps, Rewrite, Site
from study.state import State, initial

import fxgrow

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
