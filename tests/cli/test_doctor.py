import json
import os
import subprocess
import sys

from fxgrow.cli import doctor


def test_the_doctor_finds_what_is_installed_and_runs_the_main_job(run):
    status, out, _ = run("doctor", "--json")  # the compiler may have its own say on stderr
    assert status == 0
    findings = {finding["subject"]: finding for finding in json.loads(out)}
    assert {"fxgrow", "torch", "trace", "grow", "torch.compile"} <= set(findings)
    assert findings["grow"]["state"] == findings["torch.compile"]["state"] == "ok"


def test_what_fails_is_shown_and_is_the_exit_status(run, monkeypatch):
    monkeypatch.setattr("fxgrow.verify", lambda *_: 1 / 0)
    status, out, _ = run("doctor")
    assert status == 1
    assert out.splitlines()[-1].split(maxsplit=2) == ["grow", "fails", "ZeroDivisionError: division by zero"]


def test_a_package_that_is_absent_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(doctor._PACKAGES, "no-such-package", "timm")
    found = doctor._package("no-such-package", "timm")
    assert (found.state, found.detail) == ("absent", "not installed: pip install 'fxgrow[timm]'")


def test_the_shell_completes_verbs_and_options(tmp_path):
    for typed, expected in (("fxgrow insp", "inspect"), ("fxgrow inspect --par", "--parameters")):
        answer = tmp_path / "answer"
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "COMP_LINE": typed,
            "COMP_POINT": str(len(typed)),
        }
        command = [sys.executable, "-c", "import fxgrow.cli; fxgrow.cli.main([])"]
        subprocess.run(command, env=environment, check=True)
        assert expected in answer.read_text().split("\013")[0]
