"""What is kept of a model whose blocks woke."""

import torch

from fxgrow.progressive import Progressive, Stage, with_history
from fxgrow.record.record import record_of
from tests.progressive.conftest import data, model

BLOCK = 2 * 8 + (8 * 12 + 12) + (12 * 8 + 8)  # norm, fc1, fc2


def test_the_history_says_which_blocks_woke_from_which_and_what_ran() -> None:
    whole = model()
    growing = Progressive(whole, data()[0], depth=1 / 4)
    growing.advance()
    graph_module = with_history(growing, epochs=(3, 5))
    (event,) = record_of(graph_module).history
    assert [(growth.site, growth.path, growth.parameters) for growth in event.growths] == [
        ("blocks.0", "blocks.2", BLOCK)
    ]
    assert event.parameters_after - event.parameters_before == BLOCK
    assert event.context == {"epoch": 3}
    growing.advance()
    assert [len(event.growths) for event in record_of(with_history(growing)).history] == [1, 2]


def test_what_is_kept_is_the_whole_model_whichever_part_of_it_runs() -> None:
    whole = model()
    growing, (x, _) = Progressive(whole, data()[0], stages=[Stage(1 / 2, 1 / 2)]), data()
    assert torch.equal(with_history(growing)(x), whole(x))
    growing.advance()
    graph_module = with_history(growing)
    assert torch.equal(graph_module(x), whole(x))
    assert graph_module.get_parameter("head.weight") is not whole.head.weight
