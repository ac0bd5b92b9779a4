"""How the command line behaves towards scripts: silence, JSON, colours, pipes."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from fxgrow.errors import CheckpointWarning, FxgrowWarning
from fxgrow.files import Checkpointer


@pytest.mark.parametrize("verb", [("inspect",), ("inspect", "--history"), ("inspect", "--json")])
def test_quiet_prints_nothing(files, run, verb):
    name, *options = verb
    assert run(name, files["grown"], *options, "--quiet") == (0, "", "")


def test_quiet_errors_are_told_all_the_same(run, tmp_path):
    status, out, err = run("inspect", tmp_path / "nowhere.pt", "--quiet")
    assert (status, out) == (2, "")
    assert "there is no such file" in err


def test_a_verb_that_writes_prints_its_result_as_json_alone(files, run, tmp_path):
    status, out, _ = run("grow", files["scored"], "--budget", "0.1", "-o", tmp_path / "grown.pt", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["view"] == "summary"
    assert document["data"]["grew"] > 0


def test_passes_and_what_they_did_are_json_too(files, run):
    status, out, _ = run("run", files["grown"], "-p", "eliminate-dead-code", "--json")
    assert status == 0
    (step,) = json.loads(out)["passes"]
    assert (step["pass"], step["modified"]) == ("eliminate-dead-code", False)
    listed = json.loads(run("run", "--list", "--json")[1])
    assert "insert-pseudo-layers" in {found["name"] for found in listed}


def test_verify_prints_json(files, run):
    status, out, _ = run("verify", files["scored"], files["grown"], "--json")
    assert status == 0
    assert json.loads(out)["equal"] is True


@pytest.mark.parametrize(("environment", "coloured"), [({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_turns_colours_off(files, environment, coloured):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "fxgrow", "inspect", str(files["grown"])]
    shown = subprocess.run(command, capture_output=True, text=True, env={**kept, **terminal, **environment}, check=True)
    assert ("\x1b[32m" in shown.stdout) is coloured


def test_a_diff_and_a_drawing_are_written_by_their_names(files, run, tmp_path):
    status, out, _ = run("inspect", "--diff", files["scored"], files["grown"])
    assert status == 0
    assert "serial" in out
    drawing = tmp_path / "graph.svg"
    assert run("inspect", files["grown"], "--view", "graph", "--block", "blocks.0", "-o", drawing)[0] == 0
    assert drawing.read_text().startswith("<svg")
    status, _, err = run("inspect", files["grown"], "--format", "svg")
    assert status == 2
    assert "only a graph is drawn so" in err


def test_export_writes_the_formats(files, run, tmp_path):
    status, out, _ = run("export", files["grown"], "--to", "safetensors", tmp_path / "grown.safetensors")
    assert status == 0
    assert "wrote" in out
    written = tmp_path / "report.html"
    status, out, _ = run("report", files["grown"], "-o", written, "--json")
    assert json.loads(out) == {"written": str(written), "bytes": written.stat().st_size}
    assert run("inspect", tmp_path / "grown.safetensors")[0] == 0
    assert run("export", files["grown"], "--to", "model-explorer", tmp_path / "viewer")[0] == 0
    assert (tmp_path / "viewer" / "graph.json").exists()
    for form in ("python", "model-explorer"):
        status, _, err = run("export", files["grown"], "--to", form, written)
        assert (status, "it is a file, not a folder; choose another folder" in err) == (2, True)


def test_a_warning_can_be_filtered_by_its_category(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save({"a": 1}, step=0)
    (tmp_path / "step_1.ckpt").write_bytes(b"broken")
    assert issubclass(CheckpointWarning, FxgrowWarning)
    with pytest.warns(CheckpointWarning, match="passed over a checkpoint"):
        checkpointer.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", category=FxgrowWarning)
        assert checkpointer.load().step == 0
