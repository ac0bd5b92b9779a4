import argparse
import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fxgrow
from fxgrow.demo import add_arguments, run
from fxgrow.demo.claim import read_claim
from fxgrow.demo.command import settings_of
from fxgrow.demo.experiment import from_scratch, run_demo
from fxgrow.errors import DataError, FileError, FxgrowError
from fxgrow.record.record import record_of
from fxgrow.runs import Settings, read_recipe
from fxgrow.runs.residual_mlp import ResidualMLP

README = Path(__file__).parents[2] / "README.md"
SHAPE = {"depth": 4, "width": 8, "hidden": 6}
TINY = {"epochs": 4, "data.source": "mnist1d", "data.images": 256, "data.batch_size": 32}


def settings(**changes: Any) -> Settings:
    stages = {"stages.depth": [0.25, 0.5], "stages.at": [0.25, 0.5]}
    return read_recipe("half_steps", {**TINY, "model.arguments": SHAPE, **stages, **changes})


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of one small demo, and what it said in a pipe."""
    out, screen = tmp_path_factory.mktemp("demo") / "runs" / "demo", console()
    run_demo(settings(), out, screen)
    return out, text(screen)


def test_the_output_tells_the_whole_story(done: tuple[Path, str]) -> None:
    out, said = done
    assert "fxgrow.runs.residual_mlp:ResidualMLP" in said
    assert "Growth event 1 of 2, before epoch 2: 1 block wakes as half-steps" in said
    assert "Growth event 2 of 2, before epoch 3: 2 blocks wake as half-steps" in said
    assert re.search(r"half-steps +\d+ +0\.\d\d +\d+ s +[\d.]+ +[\d.]+%", said), "what it cost and what came out"
    assert re.search(r"from scratch +\d+ +1\.00 +\d+ s +[\d.]+ +[\d.]+%", said)
    assert " ".join(str(read_claim()).split()) in " ".join(said.split()), "and what is known from more than one seed"
    assert f"fxgrow inspect {out}/model.pt" in said


def test_the_cost_is_that_of_the_stages(done: tuple[Path, str]) -> None:
    _, said = done
    found = re.search(r"half-steps +\d+ +(0\.\d\d)", said)
    assert found is not None
    block, ends = 2 * 2 * 8 * 6, 2 * 40 * 8 + 2 * 8 * 10
    shares = [(count * block + ends) / (4 * block + ends) for count in (1, 2, 4, 4)]  # of four epochs
    assert float(found[1]) == pytest.approx(sum(shares) / 4, abs=0.02)


def test_the_output_fits_80_columns_in_a_pipe(done: tuple[Path, str]) -> None:
    _, said = done
    whole = [line for line in said.splitlines() if not re.match(r"Look|In the browser|.* in all\. Written", line)]
    assert max(map(len, whole)) <= 80
    assert "\x1b" not in said
    assert sum("s left" in line for line in whole) == 2 * 4, "one line an epoch for each model"


def test_five_files_are_written_and_nothing_else(done: tuple[Path, str]) -> None:
    out, _ = done
    names = ["metrics.csv", "model.pt", "plot.png", "recipe.toml", "weights.pt"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in out.parent.iterdir()] == ["demo"]
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    rows = lines(out / "metrics.csv")
    assert [(row["model"], row["epoch"]) for row in rows[:5]] == [("half-steps", str(epoch)) for epoch in range(5)]
    assert [row["model"] for row in rows[5:]] == ["from scratch"] * 5


def test_the_weights_are_those_of_the_model_s_own_class_and_the_file_computes_the_same(done: tuple[Path, str]) -> None:
    out, _ = done
    own = ResidualMLP(**SHAPE)
    own.load_state_dict(torch.load(out / "weights.pt", weights_only=True), strict=True)
    loaded = fxgrow.load(out / "model.pt", base=ResidualMLP(**SHAPE))
    x = torch.linspace(-1, 1, 80).reshape(2, 1, 1, 40)
    assert torch.equal(own.eval()(x), loaded.eval()(x))


def test_the_file_remembers_what_woke_and_the_report_has_it(done: tuple[Path, str]) -> None:
    from fxgrow.report.page import render_report

    out, _ = done
    results = fxgrow.results.read_results(out)
    history = results.table.record.history
    assert [event.context["epoch"] for event in history] == [1, 2]
    assert [[(growth.site, growth.path) for growth in event.growths] for event in history] == [
        [("blocks.0", "blocks.2")],
        [("blocks.0", "blocks.1"), ("blocks.2", "blocks.3")],
    ]
    assert history[0].parameters_after == history[1].parameters_before
    assert history[-1].parameters_after == int(lines(out / "metrics.csv")[-1]["parameters"])
    assert "from scratch" in render_report(results)
    assert record_of(fxgrow.load(out / "model.pt", base=ResidualMLP(**SHAPE))).history == history


def test_the_network_from_scratch_differs_in_its_start_and_its_rate_alone() -> None:
    grown, scratch = settings_of(arguments()), from_scratch(settings_of(arguments()))
    assert (grown.optimizer.rate, scratch.optimizer.rate) == (0.01, 0.005)  # what the study's tables have
    assert scratch.stages is None
    assert (scratch.schedule, scratch.data, scratch.epochs) == (grown.schedule, grown.data, grown.epochs)


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    runs = [run_demo(settings(epochs=2), tmp_path / name, console()) for name in "ab"]
    first, second = ([(line.train_loss, line.test_loss) for m in r.values() for line in m[1:]] for r in runs)
    assert first == second


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    screen = console(terminal=True)
    run_demo(settings(epochs=2), tmp_path / "out", screen)
    assert "half-steps epoch 2/2" in text(screen)
    assert "from scratch epoch 2/2" in text(screen)


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(given)


def test_an_output_folder_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match=r"the folder is not empty; choose another --out, or overwrite with --force"):
        run(arguments("--out", str(tmp_path)), console())
    with pytest.raises(FileError, match="it is a file, not a folder"):
        run(arguments("--out", str(tmp_path / "notes.txt"), "--force"), console())
    with pytest.raises(FileError, match=r"notes\.txt cannot be written to"):
        run(arguments("--out", str(tmp_path / "notes.txt" / "runs" / "demo")), console())


def test_force_replaces_the_results_and_leaves_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.csv").write_text("old")
    monkeypatch.setattr("fxgrow.demo.command.settings_of", lambda args: settings(epochs=2))
    run(arguments("--out", str(tmp_path), "--force"), console())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "metrics.csv").read_text().startswith("model,epoch")


@pytest.mark.parametrize("when", ["training", "writing"])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = {"training": "fxgrow.runs.growing.make_schedule", "writing": "fxgrow.demo.output.plot"}[when]
    monkeypatch.setattr(target, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_demo(settings(epochs=2), tmp_path / "out", console())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="it cannot be written"):
        run_demo(settings(epochs=2), tmp_path / "file" / "out", console())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), r"epochs: 0 does not fit: expected `int` >= 1"),
        (("--threads", "0"), "--threads: 0 is too few"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(FxgrowError, match=message):
        run(arguments("--out", str(tmp_path / "out"), *options), console())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(DataError, match="it needs mnist1d"):
        run_demo(settings(), tmp_path / "out", console())


def test_the_options_are_settings_of_the_recipe() -> None:
    chosen = settings_of(arguments("--epochs", "7", "--seed", "3"))
    assert (chosen.epochs, chosen.seed) == (7, 3)
    assert settings_of(arguments()) == read_recipe("half_steps"), "without options it is the recipe"


def test_the_readme_says_what_the_study_found() -> None:
    claim, said = read_claim(), " ".join(README.read_text().split())
    assert f"at **{claim.cost.cost:.2f}** of the training cost (95 % interval {claim.cost}; {claim.seeds} fresh" in said
    assert f"in **{claim.seconds:.2f}** of the processor time" in said
    assert claim.best.high is None
    assert f"it is **{claim.best.cost:.2f}** of the cost ({claim.best}: " in said
    assert str(claim) in said, "as the demo prints it"


def test_importing_the_command_is_quick() -> None:
    program = "import sys, fxgrow.demo; print(sorted({'torch', 'timm', 'matplotlib', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
