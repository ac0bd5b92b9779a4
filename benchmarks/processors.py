"""The tests as other processors run them: with other vector units, and with more than one thread of torch.

    python benchmarks/processors.py                                      # every test in all five settings
    python benchmarks/processors.py tests/curvature tests/operators      # some of them
    python benchmarks/processors.py --settings avx2 default -- tests/widths

torch chooses its kernels by the vector unit that it finds, ATEN_CPU_CAPABILITY says which one it may use at most, and
threads share out a sum in another order. What a test claims has to hold in all of them. A skipped test is a failure.
Two settings that come to the same on this processor, as `native` and `avx2` where there is no AVX-512, are run once;
``--after native`` says that the tests ran in that setting just before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from measuring.machine import processor
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Setting:
    """How torch computes."""

    capability: str | None  #: the vector unit at most; None leaves it to torch
    threads: int

    def environment(self) -> dict[str, str]:
        """Return the environment that makes it so."""
        others = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        chosen = {"ATEN_CPU_CAPABILITY": self.capability} if self.capability else {}
        # Two processes of two threads each: a thread that waits leaves its core to the others.
        return {**others, **chosen, "FXGROW_TEST_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}


SETTINGS = {
    "native": Setting(None, 1),
    "avx2": Setting("avx2", 1),
    "default": Setting("default", 1),
    "native-2": Setting(None, 2),
    "default-2": Setting("default", 2),
}


@dataclass(frozen=True)
class Outcome:
    """What the tests gave in one setting."""

    capability: str  #: what torch uses, in its own words
    status: int  #: that of pytest
    counts: dict[str, int]  #: passed, failed and skipped
    failures: tuple[str, ...]  #: the tests that failed or could not be collected
    seconds: float


def capability_of(setting: Setting) -> str:
    """Return the vector unit that torch uses in a setting, in its own words."""
    ask = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    return subprocess.run(ask, env=setting.environment(), capture_output=True, text=True, check=True).stdout.strip()


def run(setting: Setting, capability: str, arguments: list[str]) -> Outcome:
    """Run pytest in a process of its own; what it prints is shown as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        # Inductor's headers, compiled for one vector unit, do not serve another, and its cache does not know it.
        environment = {**setting.environment(), "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor")}
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "--no-skips", f"--junitxml={report}", *arguments]
        start = time.perf_counter()
        status = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
        seconds = time.perf_counter() - start
        counts, failures = read(report) if report.exists() else ({}, ())
    return Outcome(capability, status, counts, failures, seconds)


def run_all(names: list[str], after: list[str], arguments: list[str]) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Run the settings that differ; return their outcomes, and which others come to the same as which of them."""
    ran = {(capability_of(SETTINGS[name]), SETTINGS[name].threads): name for name in after}
    outcomes, same = dict[str, Outcome](), dict[str, str]()
    for name in names:
        capability = capability_of(SETTINGS[name])
        known = ran.setdefault((capability, SETTINGS[name].threads), name)
        if known != name:
            same[name] = known
        elif name not in after:
            outcomes[name] = run(SETTINGS[name], capability, arguments)
    return outcomes, same


def read(report: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return how many tests passed, failed and were skipped, and which failed, from a report in JUnit's form."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    reasons = [case.find("skipped") for case in cases]
    skipped = sum(reason is not None and reason.get("type") != "pytest.xfail" for reason in reasons)
    failures = tuple(
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    return {"passed": len(cases) - len(failures) - skipped, "failed": len(failures), "skipped": skipped}, failures


def show(outcomes: dict[str, Outcome], same: dict[str, str], console: Console) -> None:
    """Print the table, and the tests that failed."""
    table = Table("setting", "uses", "threads", "passed", "failed", "skipped", "minutes", "status", title=processor())
    for name, outcome in outcomes.items():
        counts = [str(outcome.counts.get(key, "-")) for key in ("passed", "failed", "skipped")]
        last = f"{outcome.seconds / 60:.1f}", str(outcome.status)
        table.add_row(name, outcome.capability, str(SETTINGS[name].threads), *counts, *last)
    console.print(table)
    for name, other in same.items():
        console.print(f"{name}: torch computes as in the setting {other}, which was run")
    for name, outcome in outcomes.items():
        for failure in outcome.failures:
            console.print(f"{name}: {failure}", markup=False)


def main() -> int:
    """Run from the command line; the exit status is 1 if any setting has a failure or a skip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--after", nargs="+", choices=SETTINGS, default=[], metavar="SETTING", help="run already")
    parser.add_argument("arguments", nargs="*", help="what pytest is given; everything if left out")
    args = parser.parse_args()
    outcomes, same = run_all(args.settings, args.after, args.arguments)
    show(outcomes, same, Console())
    return int(any(outcome.status for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
