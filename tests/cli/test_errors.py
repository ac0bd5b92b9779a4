import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.cli import main


def refused(result, *parts):
    """Check that a command ended as a mistake of the user: status 2, one line, which has all the parts."""
    status, _, err = result
    assert status == 2, err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert re.match(r"fxgrow: \w+Error: |fxgrow( \w+)?: .*--help`$", err), "it names no section of docs/errors.md"
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["VERB", "fxgrow --help"]),
        (["growe"], ["there is no verb 'growe'; did you mean 'grow'?"]),
        (["grow", "x.pt", "--budgt", "3", "--budget", "3", "-o", "y"], ["'--budgt'; did you mean '--budget'?"]),
        (["grow", "x.pt", "-o", "y"], ["--budget", "fxgrow grow --help"]),
        (["trace", "resnet50", "-o", "x.pt"], ["resnet50: this is no model", "write timm:NAME"]),
        (["trace", "timm:resnet5O", "-o", "x.pt"], ["has no model 'resnet5O'", "did you mean", "resnet50"]),
        (["trace", "timm:resnet10t", "--set", "wings", "-o", "x.pt"], ["--set wings", "--set key=value"]),
        (["trace", "timm:resnet10t", "--set", "wings=2", "-o", "x.pt"], ["cannot build resnet10t with wings=2"]),
        (["trace", "timm:resnet10t", "--set", "pretrained=true", "-o", "x.pt"], ["pretrained", "leave it out"]),
        (["trace", "timm:resnet10t", "--input-shape", "3xLxL", "-o", "x.pt"], ["3xLxL: it is no shape", "3x224x224"]),
        (["trace", "timm:resnet10t", "--input-shape", "1x32x32", "-o", "x.pt"], ["example inputs"]),
        (["inspect", "nowhere.pt"], ["nowhere.pt: there is no such file"]),
        (["verify", "a.pt", "b.pt"], ["a.pt: there is no such file"]),
    ],
)
def test_mistakes_on_the_command_line(argv, parts, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*argv), *parts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["grow", "{scored}", "--budget", "0"], ["budget 0"]),
        (["grow", "{scored}", "--budget", "-0.1"], ["budget"]),
        (["grow", "{scored}", "--budget", "ten"], ["--budget ten: it is no number"]),
        (["grow", "{scored}", "--budget", "1"], ["budget of 1", "give at least"]),
        (["grow", "{scored}", "--budget", "0.1", "--operator", "seriel"], ["seriel", "did you mean 'serial'?"]),
        (["grow", "{scored}", "--budget", "0.1", "--allocation", "evn"], ["evn", "did you mean 'even'?"]),
        (["grow", "{scored}", "--budget", "0.1", "--include", "blocks.0.mlp.fc3"], ["did you mean 'blocks.0.mlp.fc"]),
        (["grow", "{traced}", "--budget", "0.1"], ["it has no scores", "fxgrow score"]),
        (["grow", "{grown}", "--budget", "0.1"], ["its scores are of the graph before it grew"]),
        (["score", "{traced}", "--data", "digitz"], ["digitz", "did you mean 'digits'?"]),
        (["score", "{traced}", "--data", "imagefolder:/nowhere"], ["there is no such folder"]),
        (["score", "{traced}", "--data", "digits", "--score", "eigne"], ["eigne", "did you mean 'eigen'?"]),
        (["score", "{traced}", "--data", "digits", "--sites", "blocks.0.mlp.fc3"], ["blocks.0.mlp.fc3"]),
        (["score", "{traced}", "--data", "digits", "--images", "0"], ["--samples"]),
        (["score", "{traced}", "--data", "digits", "--batch-size", "0"], ["--batch-size"]),
    ],
)
def test_mistakes_about_a_model(argv, parts, run, files, tmp_path):
    output = tmp_path / "out.pt"
    refused(run(*(argument.format(**files) for argument in argv), "-o", output), *parts)
    assert os.listdir(tmp_path) == []


def test_an_unknown_node_gets_close_matches(files, run):
    refused(run("inspect", files["grown"], "--node", "blocks.0.mlp.fc3"), "blocks.0.mlp.fc3", "did you mean")


@pytest.mark.parametrize("verb", ["trace", "score", "grow"])
def test_an_output_that_exists_needs_force(verb, files, run, tmp_path):
    output = tmp_path / "out.pt"
    output.write_text("precious")
    argv = {
        "trace": ["timm:resnet10t"],
        "score": [files["traced"], "--data", "digits"],
        "grow": [files["scored"], "--budget", "0.1"],
    }[verb]
    refused(run(verb, *argv, "-o", output), "it exists already", "--force")
    assert output.read_text() == "precious"


def test_force_replaces_it(files, run, tmp_path):
    output = tmp_path / "out.pt"
    output.write_text("old")
    assert run("grow", files["scored"], "--budget", "0.1", "-o", output, "--force")[0] == 0
    assert run("inspect", output)[0] == 0


def test_more_classes_than_the_model_has(run, tmp_path, files):
    model = tmp_path / "five.pt"
    settings = [f"--set={s}" for s in ("num_classes=5", "img_size=16", "patch_size=8", "depth=1", "embed_dim=24")]
    assert run("trace", "timm:vit_tiny_patch16_224", *settings, "-o", model)[0] == 0
    refused(run("score", model, "--data", "digits"), "it has 10 classes, and the model tells 5 apart", "num_classes=10")


def test_a_pickle_needs_the_flag_that_names_the_risk(run, tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 3)), tmp_path / "x.pt")
    refused(run("inspect", tmp_path / "x.pt"), "can run any code", "--unsafe-pickle")
    status, out, _ = run("inspect", tmp_path / "x.pt", "--unsafe-pickle")
    assert status == 0
    assert "Linear" in out


@pytest.mark.parametrize("verb", ["inspect", "score", "grow", "verify"])
def test_the_help_of_the_flag_names_the_risk(verb, run):
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert "DANGER: such a file can run any code" in " ".join(out.split())


def test_a_model_of_the_user_needs_its_base(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_models.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n"
        "three = 3\n"
        "def text():\n    return 'a model'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    make = importlib.import_module("their_models").make
    fxgrow.save(fxgrow.trace(make(), torch.randn(2, 1, 8, 8)), "mine.pt")
    command = ("score", "mine.pt", "--data", "digits")
    refused(run(*command), "mine.pt: it does not say where its base model comes from", "--base MODULE:CALLABLE")
    assert run(*command, "--base", "their_models:make")[0] == 0
    for base in ("their_models:three", "their_models:text", "their_models:none", "no_such_module:make", "their_models"):
        refused(run(*command, "--base", base), f"--base {base}: ", "write MODULE:CALLABLE")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(fxgrow.FxgrowError):
        main(["inspect", str(tmp_path / "nowhere.pt"), "--debug"])


def test_a_fault_of_fxgrow_is_one_line_too(run, files, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("fxgrow.inspection.view_tree", broken)
    status, _, err = run("inspect", files["grown"])
    assert status == 1
    assert (
        err
        == "fxgrow: a fault of fxgrow (ZeroDivisionError: oh no); run it again with --debug and report what it shows\n"
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory_is_no_fault(error, run, files, monkeypatch):
    def large(*args, **kwargs):
        raise error

    monkeypatch.setattr("fxgrow.inspection.view_tree", large)
    status, _, err = run("inspect", files["grown"])
    assert (status, err) == (
        2,
        "fxgrow: the memory does not suffice; take a smaller model, smaller batches or images\n",
    )


def test_ctrl_c_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fxgrow.trace", interrupted, raising=False)
    assert run("trace", "timm:resnet10t", "-o", tmp_path / "x.pt") == (130, "", "fxgrow: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_ctrl_c_in_a_process_of_its_own(files, tmp_path):
    script = (
        "import signal, sys, time, fxgrow\n"
        "from fxgrow.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored\n"
        "fxgrow.analyze = lambda *_, **__: (print('working', flush=True), time.sleep(60))\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", script, "score", files["traced"], "--data", "digits"]
    command += ["-o", str(tmp_path / "x.pt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "fxgrow: interrupted"
    assert os.listdir(tmp_path) == []


def test_a_warning_is_one_line(files):
    script = "import sys; from fxgrow.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "score", files["traced"], "--data", "digits", "--images", "8"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0
    assert found.stderr.splitlines()[-1].startswith("fxgrow: warning: scores from fewer than 256 samples (8)")


def test_a_closed_pipe_is_no_error(files):
    command = (
        f"'{sys.executable}' -c 'from fxgrow.cli import main; exit(main())' inspect '{files['grown']}' --json | head -1"
    )
    found = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert found.stdout == "{\n"
    assert found.stderr == ""
