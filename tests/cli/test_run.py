"""`fxgrow run` on a model in a file."""

import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.cli import main
from fxgrow.errors import PassError
from fxgrow.passes import available_passes
from fxgrow.passes import registry as registry_module
from fxgrow.record.record import record_of

MODULE = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
"""
GROW = 'insert-pseudo-layers{rows={"0":[0,2]}}'
BASE = ["--base", "run_models:make"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.pt, traced from what run_models.py builds."""
    (tmp_path / "run_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    fxgrow.save(fxgrow.trace(model, torch.zeros(2, 3)), "model.pt")
    return tmp_path


def run(*arguments: str) -> int:
    return main(["run", *arguments])


def test_a_pipeline_runs_and_its_result_loads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.pt", "-p", f"eliminate-dead-code,{GROW}", "-o", "out.pt", "--verify", "full", *BASE) == 0
    assert capsys.readouterr().out.splitlines() == [
        "unchanged  eliminate-dead-code",
        f"modified   {GROW}",
        "wrote out.pt",
    ]
    import run_models

    loaded = fxgrow.load("out.pt", base=run_models.make())
    assert record_of(loaded).edits == ('insert-pseudo-layers{rows={"0":[0,2]} operator="serial" seed=0}',)


def test_time_and_graphs_are_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.pt", "-p", f"eliminate-dead-code,{GROW}", "--time", "--print-after", *BASE) == 0
    out = capsys.readouterr().out
    assert out.count("graph():") == 1
    assert "0_pseudo_0.fc1" in out
    assert [line.split()[1] for line in out.splitlines() if "ed  " in line] == ["s", "s"]


def test_without_an_output_nothing_is_written(folder: Path) -> None:
    assert run("model.pt", "-p", GROW, *BASE) == 0
    assert sorted(path.name for path in folder.glob("*.pt")) == ["model.pt"]


def test_the_list_shows_passes_with_options_and_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")] == list(available_passes())
    assert '    operator: str (default "serial")\n' in out
    assert "    rows: {str: [int, ...]} (required)\n" in out


def test_a_broken_plugin_does_not_hide_the_other_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry_module._BUILT_IN, "broken", "no_such_module:Broken")
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert "broken\n    cannot be used: pass 'broken': no_such_module:Broken cannot be imported" in out
    assert "functionalize-inplace" in out


def test_a_failure_keeps_the_graph_before_it_and_the_printed_command_repeats_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model.pt", "-p", f'{GROW},insert-pseudo-layers{{rows={{"9":[0]}}}}', "-o", "out.pt", *BASE) == 2
    message = capsys.readouterr().err
    assert message.startswith("fxgrow: PassError: pass 2 of 2, 9: there is no site of this name")
    assert message.count("\n") == 1
    assert sorted(path.name for path in folder.glob("*.pt")) == ["model.pt", "out.before.pt"]
    command = shlex.split(message.partition("to repeat: fxgrow ")[2])
    assert main([*command, *BASE]) == 2
    assert "pass 1 of 1, 9: there is no site of this name" in capsys.readouterr().err
    assert not (folder / "after.pt").exists()


def test_a_first_pass_that_fails_is_repeated_on_the_model_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model.pt", "-p", 'insert-pseudo-layers{rows={"9":[0]}}', *BASE) == 2
    assert "to repeat: fxgrow run model.pt -p" in capsys.readouterr().err
    assert sorted(path.name for path in folder.glob("*.pt")) == ["model.pt"]


def test_a_pass_that_changes_the_function_gives_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def negate(self: object, graph_module: torch.fx.GraphModule) -> None:
        output = graph_module.graph.output_node()
        with graph_module.graph.inserting_before(output):
            output.args = (graph_module.graph.call_function(torch.neg, output.args),)

    monkeypatch.setattr("fxgrow.passes.eliminate_dead_code.EliminateDeadCode.rewrite", negate)
    assert run("model.pt", "-p", "eliminate-dead-code", "--verify", "full", "-o", "out.pt", *BASE) == 1
    assert "pass 1 of 1, output: it differs by" in capsys.readouterr().err
    assert not Path("out.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "it needs a model and -p PIPELINE, or --list"),
        (("model.pt",), "it needs a model and -p PIPELINE, or --list"),
        (("model.pt", "-p", "eliminate-dead-cod"), "did you mean 'eliminate-dead-code'?"),
        (("model.pt", "-p", "eliminate-dead-code", "--verify", "all", *BASE), "use 'none', 'structure' or 'full'"),
        (("nowhere.pt", "-p", "eliminate-dead-code"), "nowhere.pt: there is no such file"),
        (("model.pt", "-p", "eliminate-dead-code", "-o", "model.pt", *BASE), "model.pt"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("model.pt").read_bytes()
    assert run(*arguments) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert Path("model.pt").read_bytes() == before


def test_debug_shows_where_a_failure_came_from() -> None:
    with pytest.raises(PassError, match="there is no site of this name"):
        run("model.pt", "-p", 'insert-pseudo-layers{rows={"9":[0]}}', "--debug", *BASE)
