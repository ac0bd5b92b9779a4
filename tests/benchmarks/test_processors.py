"""What the five settings' table says of a suite whose outcome is known."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import processors
import pytest
from rich.console import Console

SUITE = """
import pytest
def test_passes(): assert True
def test_fails(): assert False
@pytest.mark.skip
def test_is_skipped(): assert True
@pytest.mark.xfail
def test_is_known_to_fail(): assert False
"""


def test_each_setting_reaches_torch_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    found = {name: setting.environment() for name, setting in processors.SETTINGS.items()}
    assert {name: (env.get("ATEN_CPU_CAPABILITY"), env["FXGROW_TEST_THREADS"]) for name, env in found.items()} == {
        "native": (None, "1"),
        "avx2": ("avx2", "1"),
        "default": ("default", "1"),
        "native-2": (None, "2"),
        "default-2": ("default", "2"),
    }
    assert found["avx2"]["PATH"] == os.environ["PATH"]


def test_passes_failures_and_skips_are_counted_apart_and_failures_named(tmp_path: Path) -> None:
    _run_suite(tmp_path, f"--junitxml={tmp_path / 'report.xml'}")
    counts, failures = processors.read(tmp_path / "report.xml")
    assert counts == {"passed": 2, "failed": 1, "skipped": 1}
    outcome = processors.Outcome("AVX2", 1, counts, failures, seconds=90)
    shown = StringIO()
    processors.show({"native-2": outcome}, {"avx2": "native"}, Console(file=shown, width=120))
    assert [cell.strip() for cell in shown.getvalue().splitlines()[4].split("│")[1:-1]] == [
        "native-2", "AVX2", "2", "2", "1", "1", "1.5", "1",
    ]  # fmt: skip
    assert "native-2: test_suite::test_fails" in shown.getvalue()
    assert "avx2: torch computes as in the setting native" in shown.getvalue()


def test_tests_run_in_the_setting_that_was_asked_for() -> None:
    arguments = ["-n", "0", "-q", "tests/test_architecture.py"]
    outcomes, same = processors.run_all(["default"], [], arguments)
    assert (outcomes["default"].capability, outcomes["default"].status, same) == ("DEFAULT", 0, {})
    assert outcomes["default"].counts["passed"] > 0
    assert not outcomes["default"].failures


def test_settings_that_come_to_the_same_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(processors, "capability_of", lambda setting: (setting.capability or "avx2").upper())
    monkeypatch.setattr(
        processors, "run", lambda setting, capability, arguments: ran.append((capability, setting.threads))
    )
    _, same = processors.run_all(list(processors.SETTINGS), [], [])
    assert ran == [("AVX2", 1), ("DEFAULT", 1), ("AVX2", 2), ("DEFAULT", 2)]
    assert same == {"avx2": "native"}
    ran.clear()
    _, same = processors.run_all(["avx2", "default"], ["native"], [])
    assert ran == [("DEFAULT", 1)]
    assert same == {"avx2": "native"}


def test_the_gate_takes_a_skip_for_a_failure(tmp_path: Path) -> None:
    only_skips = "--deselect=test_suite.py::test_fails"
    assert _run_suite(tmp_path, only_skips) == 0
    assert _run_suite(tmp_path, only_skips, "-p", "conftest", "--no-skips") == 1


def _run_suite(folder: Path, *arguments: str) -> int:
    (folder / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", *arguments, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(processors.ROOT / "tests"), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
