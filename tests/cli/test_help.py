import subprocess
import sys

import pytest

import fxgrow
from fxgrow.cli import VERBS
from fxgrow.cli.grow import parse_budget
from fxgrow.cli.trace import parse_settings, parse_shape
from fxgrow.errors import FxgrowError


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_shows_an_example(verb, run):
    status, out, err = run(verb, "--help")
    assert (status, err) == (0, "")
    assert f"example:\n  fxgrow {verb}" in out


def test_the_help_lists_every_verb(run):
    status, out, _ = run("--help")
    assert status == 0
    for verb in VERBS:
        assert f"    {verb} " in out


def test_version(run):
    assert run("--version")[:2] == (0, f"fxgrow {fxgrow.__version__}\n")


@pytest.mark.parametrize("argv", [["--help"], ["grow", "--help"], ["demo", "--help"], ["growe"]])
def test_help_and_mistakes_import_nothing_heavy(argv):
    script = (
        "import sys; from fxgrow.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'networkx', 'rich', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_settings():
    settings = ["num_classes=10", "qkv_bias=false", "global_pool=avg", "sizes=(1, 2)", "norm=none", "name=a=b"]
    assert parse_settings(settings) == {
        "num_classes": 10,
        "qkv_bias": False,
        "global_pool": "avg",
        "sizes": (1, 2),
        "norm": None,
        "name": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "shape"), [("3x224x224", (3, 224, 224)), ("1,28,28", (1, 28, 28)), ("3×8×8", (3, 8, 8))]
)
def test_shapes(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "3x", "x", "3x0x3", "-1x3", "threexthree"])
def test_no_shapes(text):
    with pytest.raises(FxgrowError, match="it is no shape"):
        parse_shape(text)


@pytest.mark.parametrize(("text", "budget"), [("10", 10), ("0.1", 0.1), ("10%", 0.1), ("1e-2", 0.01), ("1_000", 1000)])
def test_budgets(text, budget):
    parsed = parse_budget(text)
    assert parsed == budget
    assert type(parsed) is type(budget)
