import csv
import tomllib
from pathlib import Path

import pytest
import timm
import torch

import fxgrow
from fxgrow.cli.train import parse_shares
from fxgrow.errors import SettingsError

SMALL = [
    *("--no-compile", "--device", "cpu", "--epochs", "2", "--set", "data.images=128"),
    *("--set", "model.arguments.depth=2", "--set", "model.arguments.embed_dim=12"),
    *("--set", "model.arguments.patch_size=14"),
]
TINY = [*SMALL, "--set", "growth.events=1", "--set", "growth.samples=64"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_run_leaves_recipe_metrics_and_model_and_the_recipe_repeats_it(run, here):
    status, out, err = run("train", "demo", *TINY, "--out", "runs/first")
    assert (status, err) == (0, "")
    assert "Growth event 1 of 1, before epoch 2" in out
    assert "fxgrow inspect runs/first/model.pt" in out
    assert sorted(path.name for path in (here / "runs/first").iterdir()) == ["metrics.csv", "model.pt", "recipe.toml"]
    assert run("train", "runs/first/recipe.toml", "--out", "runs/second")[0] == 0
    first, second = (lines(here / f"runs/{name}/metrics.csv") for name in ("first", "second"))
    assert [row["test_loss"] for row in first] == [row["test_loss"] for row in second]
    assert len(first) == 3
    model = fxgrow.load(here / "runs/first/model.pt")
    assert sum(p.numel() for p in model.parameters()) == int(first[-1]["parameters"])


def test_blocks_that_woke_end_in_the_weights_of_timms_own_model(run, here):
    status, out, _ = run("train", "demo", *SMALL, "--stages", "1/2", "--cycles", "1,2")
    assert status == 0
    assert "1 block wakes as half-steps" in out
    recipe = tomllib.loads((here / "runs/demo/recipe.toml").read_text())
    assert "growth" not in recipe
    assert (recipe["stages"]["depth"], recipe["schedule"]["cycles"]) == ([0.5], [1.0, 2.0])
    model = timm.create_model("vit_tiny_patch16_224", **recipe["model"]["arguments"])
    model.load_state_dict(torch.load(here / "runs/demo/weights.pt", weights_only=True), strict=True)


def test_the_recipes_are_listed_with_what_they_are(run):
    status, out, _ = run("train", "--list")
    assert status == 0
    assert "demo\n    `fxgrow demo`: a narrow vision transformer" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing says what to train; give a recipe (--list shows some), or --data and --model"),
        (["dmeo"], "did you mean 'demo'?"),
        (["demo", "--epochs", "many"], "epochs: 'many' does not fit"),
        (["demo", "--stages", "half"], "--stages half: it is no list of numbers; write --stages 1/4,1/2"),
        (["demo", "--budget", "much"], "--budget much: it is no number"),
        (["demo", "--data", "digitz"], "did you mean 'digits'?"),
        (["demo", "--threads", "0"], "--threads: 0 is too few"),
        (["demo", "--set", "growth.operator=seriel"], "did you mean 'serial'?"),
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
    assert "the folder is not empty" in run("train", "demo", *TINY, "--out", here)[2]


def test_shares_are_fractions():
    assert parse_shares("1/8, 1/4,0.5", "--stages") == [0.125, 0.25, 0.5]
    with pytest.raises(SettingsError):
        parse_shares("1/0", "--stages")
