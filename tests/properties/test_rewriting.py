"""Random networks through random sequences of passes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxgrow.passes import Pipeline, parse
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import graph_modules, rewrite_at_random
from fxgrow.testing.networks import RandomNetwork

Drawn = tuple[RandomNetwork, tuple[torch.Tensor, ...]]


@settings(max_examples=200)
@given(graph_modules(), st.data())
def test_no_sequence_of_passes_changes_the_function_and_refusals_give_a_reason(
    drawn: Drawn, data: st.DataObject
) -> None:
    rewritten = rewrite_at_random(data.draw, *drawn)
    assert rewritten.largest_relative <= 1e-10
    for refusal in rewritten.refusals:
        assert refusal
        assert "\n" not in refusal
        assert "crashed" not in refusal


@settings(max_examples=30)
@given(graph_modules(), st.data())
def test_the_edit_log_and_the_text_both_repeat_a_sequence_of_passes(drawn: Drawn, data: st.DataObject) -> None:
    rewritten = rewrite_at_random(data.draw, *drawn, max_passes=4)
    for text in (",".join(record_of(rewritten.result).edits), str(Pipeline(rewritten.passes))):
        assert digest(parse(text)(rewritten.traced).graph_module) == digest(rewritten.result)
