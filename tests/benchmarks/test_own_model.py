"""Other people's models grow inside themselves: their own classes load what comes out, and compute the same."""

import own_model
import pytest


@pytest.mark.parametrize("name", own_model.FAMILIES)
def test_a_model_grown_from_half_its_blocks_loads_into_its_own_class_bit_for_bit(name: str) -> None:
    outcome = own_model.grow_inside(own_model.FAMILIES[name], full=False)
    assert outcome.idle[0] > outcome.idle[-1] == 0
    assert outcome.equal
