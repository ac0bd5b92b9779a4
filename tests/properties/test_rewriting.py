"""Random networks through random sequences of passes."""

from hypothesis import given, settings

from fxgrow.graph.digest import digest
from fxgrow.graph.record import record_of
from fxgrow.passes import Pipeline, parse
from fxgrow.testing import rewritten_modules
from fxgrow.testing.strategies import Rewritten
from fxgrow.verification import verify


@settings(max_examples=200)
@given(rewritten_modules())
def test_a_sequence_of_passes_keeps_the_function(rewritten: Rewritten) -> None:
    assert verify(rewritten.model, rewritten.result, rewritten.example_inputs).largest_relative <= 1e-10


@settings(max_examples=50)
@given(rewritten_modules(max_passes=3))
def test_the_edit_log_and_the_text_both_repeat_a_sequence_of_passes(rewritten: Rewritten) -> None:
    log = ",".join(record_of(rewritten.result).edits)
    assert digest(parse(log)(rewritten.traced).graph_module) == digest(rewritten.result)
    text = str(Pipeline(rewritten.passes))
    assert digest(parse(text)(rewritten.traced).graph_module) == digest(rewritten.result)


@settings(max_examples=50)
@given(rewritten_modules())
def test_refusals_give_a_reason_in_one_line(rewritten: Rewritten) -> None:
    for refusal in rewritten.refusals:
        assert refusal
        assert "\n" not in refusal
        assert "crashed" not in refusal
