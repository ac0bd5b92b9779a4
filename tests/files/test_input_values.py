"""Inputs as plain data: nothing that a file names is imported or run for them."""

import enum
import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from typing import Any

import pytest
import torch

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files.input_values import from_spec, to_spec
from fxgrow.files.table import tensor_specs


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


def build(shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str]:
    return shape, dtype


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, "text", torch.half, torch.device("cpu"), Colour.RED, (1, 2), [1, (2, 3)], {"a": [1], 2: None}],
)
def test_a_constant_comes_back_as_it_was_with_its_type(value: Any):
    again = from_spec(to_spec(value), build)
    assert again == value
    assert type(again) is type(value)


def test_structures_of_loaded_classes_come_back_without_running_their_code():
    spec = {"type": f"{__name__}:Point", "items": [["x", {"shape": [2, 3], "dtype": "float32"}], ["y", 5]]}
    again = from_spec(spec, build)
    assert again == Point(((2, 3), "float32"), 5)
    assert list(tensor_specs([spec, {"mask": {"shape": [4], "dtype": "bool"}}])) == [
        ((2, 3), "float32"),
        ((4,), "bool"),
    ]


@pytest.mark.parametrize("name", ["no.such:Point", "subprocess:Popen", "tempfile:TemporaryDirectory", "os:system"])
def test_any_other_class_is_represented_by_a_stand_in_with_its_fields(name: str):
    again = from_spec({"type": name, "items": [["args", "x"]]}, build)
    assert is_dataclass(again)
    assert again.args == "x"
    assert not isinstance(again, subprocess.Popen)


@pytest.mark.parametrize("name", ["no.such.module:Colour", "subprocess:Popen", f"{__name__}:Point"])
def test_a_constant_of_a_class_that_is_not_loaded_is_refused(name: str):
    loaded = set(sys.modules)
    with pytest.raises(FileError, match="which is not loaded; import"):
        from_spec({"type": name, "name": "RED"}, build)
    assert set(sys.modules) == loaded


def test_what_is_neither_plain_nor_a_structure_is_refused():
    with pytest.raises(FileError, match="a builtin_function_or_method among its inputs cannot be held by a file"):
        to_spec([print])
    assert issubclass(FileError, fxgrow.FxgrowError)
