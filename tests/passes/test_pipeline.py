"""Pipelines as text, and what running one promises."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
import torch
import torch.fx as fx
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxgrow.errors import PassError, PipelineError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.passes import Pass, Pipeline, parse
from fxgrow.passes import registry as registry_module
from fxgrow.passes.eliminate_dead_code import EliminateDeadCode
from fxgrow.passes.grammar import PassText, read_pipeline
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.options import options_of, read_value, spell_value
from fxgrow.record.digest import digest


@dataclass(frozen=True)
class Everything(Pass):
    """A pass with an option of every type that pipelines can spell."""

    needed: int
    text: str = "even"
    number: float = 0.5
    flag: bool = False
    choice: Literal["a", "b", 3] = "a"
    maybe: int | None = None
    rows: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    sites: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    vectors: Any = field(default=None, compare=False, metadata={"data": True})

    name: ClassVar[str] = "everything"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Change nothing."""


@dataclass(frozen=True)
class Negate(Pass):
    """A deliberately wrong pass: it negates the output and says that it does not."""

    name: ClassVar[str] = "negate"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Put a negation before the output."""
        output = graph_module.graph.output_node()
        value = output.args[0]
        assert isinstance(value, fx.Node)
        with graph_module.graph.inserting_before(output):
            output.args = (graph_module.graph.call_function(torch.neg, (value,)),)


@pytest.fixture(autouse=True)
def _extra_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in (Everything, Negate):
        monkeypatch.setitem(registry_module._BUILT_IN, extra.name, f"{__name__}:{extra.__name__}")


def traced_mlp() -> fx.GraphModule:
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).double())
    propagate_shapes(traced, torch.zeros(2, 3, dtype=torch.float64))
    return traced


json_words = st.text() | st.sampled_from(["null", "true", "1", "a b", 'quo"te', "}", ",", "ü", "\\"])
finite = st.floats(allow_nan=False)
everythings = st.builds(
    Everything,
    needed=st.integers(),
    text=json_words,
    number=finite,
    flag=st.booleans(),
    choice=st.sampled_from(["a", "b", 3]),
    maybe=st.none() | st.integers(),
    rows=st.lists(st.integers()).map(tuple),
    pair=st.tuples(st.integers(), json_words),
    sites=st.dictionaries(json_words, st.lists(finite).map(tuple)),
)


@given(st.lists(everythings | st.just(EliminateDeadCode())).map(tuple).map(Pipeline))
def test_a_pipeline_reads_back_from_its_text(pipeline: Pipeline) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry_module._BUILT_IN, "everything", f"{__name__}:Everything")
        assert parse(str(pipeline)) == pipeline
        assert str(parse(str(pipeline))) == str(pipeline)


@given(everythings)
def test_a_pass_spelled_in_full_reads_back_too(applied: Everything) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry_module._BUILT_IN, "everything", f"{__name__}:Everything")
        full = applied.spell(defaults=True)
        assert parse(full) == Pipeline((applied,))
        assert all(f"{name}=" in full for name in options_of(Everything))


@given(st.text(alphabet="ab-_{}[],=\"' 01.\n"))
def test_any_text_is_read_or_refused_with_a_pass_error(text: str) -> None:
    try:
        passes = read_pipeline(text)
    except PassError:
        return
    assert all(isinstance(written, PassText) for written in passes)


def test_values_may_be_bare_words_and_space_is_free() -> None:
    text = " everything{ needed=1  text=3x3 choice=b }\n, eliminate-dead-code "
    assert parse(text) == Pipeline((Everything(1, text="3x3", choice="b"), EliminateDeadCode()))


def test_an_empty_text_is_an_empty_pipeline() -> None:
    assert parse("  ") == Pipeline(())


def test_the_text_leaves_out_defaults_and_data() -> None:
    assert str(Everything(1, flag=True, vectors=torch.zeros(2))) == "everything{needed=1 flag=true}"


def test_infinity_survives_and_nan_is_refused() -> None:
    assert parse(str(Everything(1, number=float("inf")))) == Pipeline((Everything(1, number=float("inf")),))
    with pytest.raises(PassError, match='wants float, not "NaN"'):
        parse("everything{needed=1 number=NaN}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eliminate-dead-cod", "did you mean 'eliminate-dead-code'"),
        ("everything{nedded=1}", "it has no option 'nedded'; did you mean 'needed'?"),
        ("everything", "it needs the option needed; add needed=<int>"),
        ("everything{needed=true}", "the option needed wants int, not true"),
        ("everything{needed=1.0}", "the option needed wants int, not 1.0"),
        ("everything{needed=1 text=2}", "the option text wants str, not 2; write text=<str> in quotes"),
        ("everything{needed=1 choice=c}", 'the option choice wants "a" | "b" | 3, not "c"'),
        ("everything{needed=1 maybe=x}", 'the option maybe wants int | null, not "x"'),
        ('everything{needed=1 rows=[1,"2"]}', 'the option rows wants [int, ...], not [1,"2"]'),
        ("everything{needed=1 pair=[1]}", "the option pair wants [int, str], not [1]"),
        ('everything{needed=1 sites={"fc":1}}', 'the option sites wants {str: [float, ...]}, not {"fc":1}'),
        ("everything{needed=1 vectors=[1]}", "it has no option 'vectors'"),
        ("everything{needed=1 needed=2}", "this option is given twice"),
        ("everything{needed=1", "expected an option as in `rows=[0,3]`, or a closing brace at character 20"),
        ("everything{needed}", "expected `=` and a value for the option needed at character 18"),
        ("everything{needed=}", "expected a JSON value or a bare word for the option needed at character 19"),
        ("eliminate-dead-code,", "expected the name of a pass at character 21, found 'the end'"),
        ("eliminate-dead-code everything", "expected a comma and another pass, or the end at character 21"),
    ],
)
def test_what_is_wrong_in_a_text_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PassError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_float_may_be_written_as_an_int_and_a_bool_is_no_int() -> None:
    assert type(read_value(1, float)) is float
    with pytest.raises(TypeError, match="it wants int, not true"):
        read_value(True, int)


def test_what_is_no_plain_data_has_no_text() -> None:
    with pytest.raises(TypeError, match="Tensor is not plain data"):
        spell_value(torch.zeros(2))


def test_a_pipeline_runs_its_passes_in_order_and_leaves_the_graph_that_went_in() -> None:
    traced, seen = traced_mlp(), []
    before = digest(traced)
    pipeline = parse('eliminate-dead-code,insert-pseudo-layers{rows={"0":[0,2]}}')
    result = pipeline(traced, after_each=seen.append)
    assert [step.applied for step in seen] == list(pipeline.passes)
    assert [step.result.modified for step in seen] == [False, True]
    assert seen[0].result.graph_module is seen[1].before
    assert all(step.seconds > 0 for step in seen)
    assert result.modified
    assert digest(result.graph_module) != digest(traced) == before


def test_an_empty_pipeline_modifies_nothing() -> None:
    traced = traced_mlp()
    assert Pipeline(())(traced).graph_module is traced
    assert not Pipeline(())(traced).modified


def test_full_verification_catches_a_pass_that_changes_the_function() -> None:
    traced = traced_mlp()
    assert Pipeline((Negate(),))(traced).modified
    with pytest.raises(PipelineError, match=r"pass 2 of 2, output: it differs by .* \(eval mode"):
        Pipeline((EliminateDeadCode(), Negate()))(traced, verify="full")


def test_full_verification_lets_right_passes_through() -> None:
    pipeline = Pipeline((InsertPseudoLayers({"0": (1,)}), InsertPseudoLayers({"2": (0, 1)}, "branch")))
    assert pipeline(traced_mlp(), verify="full").modified


def test_a_failure_carries_the_graph_before_it_and_the_command_that_repeats_it() -> None:
    pipeline = Pipeline((InsertPseudoLayers({"0": (1,)}), InsertPseudoLayers({"it's": (1,)})))
    with pytest.raises(PipelineError, match="pass 2 of 2, it's: there is no site of this name") as caught:
        pipeline(traced_mlp())
    assert digest(caught.value.before) == digest(pipeline.passes[0](traced_mlp()).graph_module)
    assert parse(caught.value.failed) == Pipeline(pipeline.passes[1:])
    command = caught.value.reproducer("be fore.pt")
    assert shlex.split(command)[:5] == ["fxgrow", "run", "be fore.pt", "-p", caught.value.failed]


def test_an_unknown_verification_is_refused() -> None:
    with pytest.raises(PassError, match="use 'none', 'structure' or 'full'"):
        parse("")(traced_mlp(), verify="all")  # type: ignore[arg-type]
