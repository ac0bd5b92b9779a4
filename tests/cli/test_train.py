import csv
import json
import signal
import tomllib
from pathlib import Path

import pytest
import timm
import torch

import fxgrow
from fxgrow.cli import build_parser
from fxgrow.cli.train import parse_shares, settings_of
from fxgrow.errors import SettingsError
from fxgrow.runs.interruption import ends_behind_the_step

SMALL = [
    *("--data", "digits", "--device", "cpu", "--epochs", "2", "--set", "data.images=128"),
    *("--set", "model.arguments.depth=2", "--set", "model.arguments.embed_dim=12"),
    *("--set", "model.arguments.img_size=8", "--set", "model.arguments.patch_size=4"),
]
TINY = [*SMALL, "--set", "growth.events=1", "--set", "growth.samples=64"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_run_leaves_recipe_metrics_and_model_and_the_recipe_repeats_it(run, here):
    status, out, err = run("train", "digits", *TINY, "--out", "runs/first")
    assert status == 0
    assert {line[:39] for line in err.splitlines()} == {"fxgrow: warning: scores from fewer than"}, "256 samples"
    assert "Growth event 1 of 1, before epoch 2" in out
    assert "fxgrow inspect runs/first/model.pt" in out
    names = sorted(path.name for path in (here / "runs/first").iterdir())
    assert names == ["checkpoints", "metrics.csv", "model.pt", "recipe.toml"]
    assert run("train", "runs/first/recipe.toml", "--out", "runs/second")[0] == 0
    first, second = (lines(here / f"runs/{name}/metrics.csv") for name in ("first", "second"))
    assert [row["test_loss"] for row in first] == [row["test_loss"] for row in second]
    assert len(first) == 3
    model = fxgrow.load(here / "runs/first/model.pt")
    assert sum(p.numel() for p in model.parameters()) == int(first[-1]["parameters"])


def test_blocks_that_woke_end_in_the_weights_of_timms_own_model(run, here):
    status, out, _ = run("train", "digits", *SMALL, "--stages", "1/2", "--cycles", "1,2")
    assert status == 0
    assert "1 block wakes as half-steps" in out
    recipe = tomllib.loads((here / "runs/digits/recipe.toml").read_text())
    assert "growth" not in recipe
    assert (recipe["stages"]["depth"], recipe["schedule"]["cycles"]) == ([0.5], [1.0, 2.0])
    model = timm.create_model("vit_tiny_patch16_224", **recipe["model"]["arguments"])
    model.load_state_dict(torch.load(here / "runs/digits/weights.pt", weights_only=True), strict=True)
    assert run("report", "runs/digits")[0] == 0
    assert "woke at event 1, from blocks.0" in (here / "report.html").read_text()


def test_an_interrupt_ends_the_run_behind_its_step_and_it_can_go_on(run, here, monkeypatch):
    from fxgrow.runs.progress import TrainingProgress

    def interrupt(self, epoch, loss):
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background of a shell
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "step", interrupt)
        status, out, err = run("train", "digits", *TINY, "--out", "stopped")
    assert status == 130
    assert "ends behind this step" in err
    assert "stopped behind step 3 of 4; go on with:\n  fxgrow train --resume stopped" in out
    assert signal.getsignal(signal.SIGINT) is before
    status, out, _ = run("train", "--resume", "stopped", "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["step"], told["steps"], len(told["metrics"])) == (4, 4, 3)
    assert run("train", "digits", *TINY, "--out", "whole")[0] == 0
    stopped, whole = (lines(here / f"{name}/metrics.csv") for name in ("stopped", "whole"))
    assert [row["test_loss"] for row in stopped] == [row["test_loss"] for row in whole]


def test_a_second_interrupt_is_one(monkeypatch):
    with ends_behind_the_step() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_cannot_go_on_is_refused(run, here):
    status, _, err = run("train", "--resume", "nowhere")
    assert status == 2
    assert "nowhere/recipe.toml: it cannot be read" in err
    (here / "recipe.toml").write_text('[data]\nsource = "digits"\n')
    assert "a run goes on as its recipe says; leave it out" in run("train", "--resume", here, "--epochs", "3")[2]


def test_tensorboard_gets_the_curves(run, here):
    assert run("train", "digits", *SMALL, "--set", "growth=none", "--set", "tensorboard=true", "--out", "seen")[0] == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = EventAccumulator(str(here / "seen")).Reload()
    assert [point.step for point in written.Scalars("test_accuracy")] == [1, 2]


def test_a_plan_says_what_a_run_will_do_and_writes_nothing(run, here):
    status, out, err = run("train", "digits", *TINY, "--plan")
    assert (status, err) == (0, "")
    assert "before epoch" in out
    assert "extrapolated by FLOPs: the times with ~" in out
    assert max(map(len, out.splitlines())) <= 80
    assert list(here.iterdir()) == []


def test_the_recipes_are_listed_with_what_they_are(run):
    status, out, _ = run("train", "--list")
    assert status == 0
    assert "digits\n    A narrow vision transformer grows three times" in out
    assert set(json.loads(run("train", "--list", "--json")[1])) >= {"digits", "half_steps"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing says what to train; give a recipe (--list shows some), or --data and --model"),
        (["digist"], "did you mean 'digits'?"),
        (["digits", "--epochs", "many"], "epochs: 'many' does not fit"),
        (["digits", "--stages", "half"], "--stages half: it is no list of numbers; write numbers with commas"),
        (["digits", "--cycles", ""], "it is no list of numbers; write numbers with commas"),
        (["digits", "--budget", "much"], "--budget much: it is no number"),
        (["digits", "--data", "digitz"], "did you mean 'digits'?"),
        (["digits", "--threads", "0"], "--threads: 0 is too few"),
        (["digits", "--set", "growth.operator=seriel"], "did you mean 'serial'?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, here, argv, message):
    status, _, err = run("train", *argv)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(run, here):
    (here / "notes.txt").write_text("mine")
    assert "the folder is not empty" in run("train", "digits", *TINY, "--out", here)[2]


def test_shares_are_fractions():
    assert parse_shares("1/8, 1/4,0.5", "--stages") == [0.125, 0.25, 0.5]
    with pytest.raises(SettingsError):
        parse_shares("1/0", "--stages")


def test_stages_on_the_command_line_replace_those_of_the_recipe_with_their_times() -> None:
    settings = settings_of(build_parser().parse_args(["train", "half_steps", "--stages", "1/4,1/2", "--cycles", "1"]))
    assert settings.stages is not None
    assert (settings.stages.depth, settings.stages.times) == ((0.25, 0.5), (0.25, 0.5))
