"""The folder of a run, read back."""

import pytest

import fxgrow
from fxgrow.errors import FileError
from fxgrow.results import read_results


def test_a_folder_is_read_as_plain_data(folder, grown) -> None:
    run = read_results(folder)
    assert run.name == "small"
    assert run.command == f"fxgrow train {folder}/recipe.toml"
    assert run.settings == {"data.seed": 7, "data.note": "<script>x</script>"}
    assert list(run.metrics) == ["grown", "base"]
    assert [line["parameters"] for line in run.metrics["grown"]] == [100, 110, 120, 130, 140]
    assert run.table.depth_map == fxgrow.depth_map(grown)


def test_a_cell_that_is_no_finite_number_says_nothing(folder) -> None:
    base = read_results(folder).metrics["base"]
    assert all("train_loss" not in line and "test_loss" in line for line in base)


def test_a_model_alone_is_a_run_without_metrics(folder) -> None:
    run = read_results(folder / "model.pt")
    assert (run.name, dict(run.metrics), dict(run.settings), run.command) == ("model.pt", {}, {}, "")


def test_a_folder_without_a_model_says_what_to_name(tmp_path) -> None:
    with pytest.raises(FileError, match=r"model\.pt: there is no such file; name the folder of a run"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("recipe.toml", b"seed = ", "it is not TOML"),
        ("metrics.csv", b"model,loss\na,1\n", "a line of it has no epoch"),
        ("metrics.csv", b"epoch\n\xff\xfe", "it cannot be read as text"),
    ],
)
def test_a_damaged_file_is_named(folder, tmp_path, name, content, message) -> None:
    (tmp_path / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=f"{name}: {message}"):
        read_results(tmp_path)
