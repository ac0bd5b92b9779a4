"""What is in the repository is what gets installed and what is exported."""

import subprocess
import sys
import tomllib
from pathlib import Path

import fxgrow

ROOT = Path(__file__).parent.parent


def test_every_folder_of_the_package_is_listed_for_installation() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "fxgrow").rglob("__init__.py")}
    assert sorted(listed) == sorted({".".join(folder.parts) for folder in folders} | {"fxgrow.passes"})


def test_every_public_name_resolves_and_has_a_docstring() -> None:
    for name in fxgrow.__all__:
        assert name == "__version__" or getattr(fxgrow, name).__doc__


def test_the_version_stands_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fxgrow.__version__"}
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


def test_importing_fxgrow_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "timm", "torchvision", "matplotlib", "networkx", "rich", "hypothesis")
    code = f"import sys, fxgrow; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_growing_needs_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys, fxgrow; [getattr(fxgrow, name) for name in fxgrow.__all__];"
        "print({'timm', 'torchvision', 'matplotlib', 'sklearn', 'hypothesis'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


def test_the_command_runs_as_a_module_too() -> None:
    shown = subprocess.run([sys.executable, "-m", "fxgrow", "--version"], capture_output=True, text=True, check=True)
    assert fxgrow.__version__ in shown.stdout


def test_the_page_of_errors_has_a_section_for_each() -> None:
    from fxgrow import errors

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    lines = (ROOT / "docs/errors.md").read_text().splitlines()
    headings = {line[3:] for line in lines if line.startswith("## ")}
    assert headings == kinds
