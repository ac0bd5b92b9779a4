import tomllib
from pathlib import Path
from typing import Any

import pytest

from fxgrow.errors import FileError, SettingsError
from fxgrow.runs import Settings, override, read_recipe, recipe_names
from fxgrow.runs.reading import as_toml, parse_changes, recipe_summary, settings_from


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_is_written_back_repeats_itself(name: str) -> None:
    settings = read_recipe(name)
    assert settings_from(tomllib.loads(as_toml(settings))) == settings


def test_every_recipe_says_what_it_is() -> None:
    assert "digits" in recipe_names()
    assert all(len(recipe_summary(name)) > 40 for name in recipe_names())


def test_an_empty_recipe_has_the_defaults_and_does_not_grow() -> None:
    assert settings_from({}) == Settings()
    assert Settings().growth is None


def test_numbers_of_parameters_and_shares_of_them_stay_apart() -> None:
    for budget in (5000, 0.5, 1.0):
        growth = settings_from({"growth": {"budget": budget}}).growth
        assert growth is not None
        assert (growth.budget, type(growth.budget)) == (budget, type(budget))


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\n[growth]\nbudget = 0.3\n")
    settings = read_recipe(str(path), {"growth.budget": 0.2, "seed": 3})
    assert (settings.epochs, settings.seed) == (7, 3)
    assert settings.growth is not None
    assert settings.growth.budget == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"growht.budget": 1}, r"digits: growht: there is no such setting; did you mean 'growth'\?"),
        (
            {"growth.budgte": 1},
            r"digits: growth.budgte: there is no such setting; did you mean 'budget'\? \[growth\] has",
        ),
        ({"epochs": 0}, "digits: epochs: 0 does not fit: expected `int` >= 1"),
        ({"growth.at": [4, 0]}, r"digits: growth.at\[1\]: 0 does not fit"),
        ({"growth.at": [1, 40]}, "growth.at: the model would grow before epoch 40, counted from 0, and the run has 40"),
        ({"data.channels": 2}, "digits: data.channels: 2 does not fit"),
        ({"growth": 3}, "digits: growth: 3 does not fit"),
        ({"growth.budget": "much"}, "digits: growth.budget: 'much' does not fit: expected `int | float`, got `str`"),
        ({"growth.budget": float("nan")}, "growth.budget: nan is no budget; give a share"),
        ({"growth.budget": -0.5}, "growth.budget: -0.5 is no budget"),
        ({"optimizer.rate": float("inf")}, "digits: optimizer.rate: inf does not fit"),
        ({"optimizer.weight_decay": float("nan")}, "digits: optimizer.weight_decay: nan does not fit"),
        ({"schedule.cycles": [float("inf")]}, r"digits: schedule.cycles\[0\]: inf does not fit"),
        ({"seed": 2**70}, "digits: seed: "),
        ({"seed": -1}, "digits: seed: -1 does not fit"),
        ({"schedule.cycles": []}, "digits: schedule.cycles: "),
        ({"stages.depth": [0.5]}, "a run grows neurons or wakes blocks, not both; leave out"),
        ({"growth.every": 3}, "its schedule is said by halves, or twice; give at, or start and every, or events"),
        ({"epochs.x": 3}, "epochs is no table"),
        ({"data.images": 3}, "3 images fill no batch of 64; take more"),
        ({"growth": None, "stages.depth": [0.25, 0.5], "stages.at": [0.5]}, "stages.at: it has 1 values; give 2"),
        ({"growth": None, "stages.depth": [0.25, 0.5], "stages.at": [0.5, 0.2]}, "do not ascend"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_recipe("digits", changes)


def test_a_recipe_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"digist: it cannot be read .*did you mean 'digits'\?"):
        read_recipe("digist")
    (tmp_path / "broken.toml").write_text("epochs = \n")
    with pytest.raises(FileError, match="it is no TOML"):
        read_recipe(str(tmp_path / "broken.toml"))
    (tmp_path / "deep.toml").write_text("a" + ".b" * 3000 + " = 1\n")
    with pytest.raises(FileError, match="its tables lie too deep in each other"):
        read_recipe(str(tmp_path / "deep.toml"))


def test_changes_are_read_as_python_spells_values() -> None:
    pairs = [
        "growth.score=gain",
        "optimizer.rate=3e-4",
        "growth=none",
        "model.arguments.img_size=(8, 8)",
        "compile=false",
    ]
    assert parse_changes(pairs) == {
        "growth.score": "gain",
        "optimizer.rate": 3e-4,
        "growth": None,
        "model.arguments.img_size": (8, 8),
        "compile": False,
    }
    with pytest.raises(SettingsError, match=r"write --set table\.key=value"):
        parse_changes(["epochs"])


def test_overriding_leaves_the_document_as_it_was() -> None:
    document = {"growth": {"budget": 0.5}}
    assert override(document, {"growth.budget": None, "data.source": "digits"}) == {
        "growth": {},
        "data": {"source": "digits"},
    }
    assert document == {"growth": {"budget": 0.5}}


def test_stages_double_the_training_where_nothing_is_said() -> None:
    stages = settings_from({"stages": {"depth": [0.125, 0.25, 0.5]}}).stages
    assert stages is not None
    assert stages.times == (0.125, 0.25, 0.5)
