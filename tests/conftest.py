"""How the tests run.

hypothesis draws the same examples every time, unless HYPOTHESIS_PROFILE=explore asks for new ones, of which it says the
seed. torch uses one thread, unless FXGROW_TEST_THREADS asks for more: the tests' tensors are small, and pytest-xdist's
processes already share the cores. Nor do the processes that tests start take more.
"""

import gc
import os
import secrets

import pytest
import torch
from hypothesis import HealthCheck, settings

_THREADS = os.environ.get("FXGROW_TEST_THREADS", "1")
torch.set_num_threads(int(_THREADS))
os.environ["OMP_NUM_THREADS"] = _THREADS  # for the processes that tests start

#: building a network takes longer than drawing a number
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=_SLOW)
settings.load_profile(_PROFILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped, as the gate does")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its option; pytest-xdist hands it on to its processes
def pytest_configure(config: pytest.Config) -> None:
    if _PROFILE == "explore" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = secrets.randbelow(2**32)


def pytest_collection_finish() -> None:
    """Take off each test what the libraries that are loaded by now would cost it.

    lightning, once imported, has torch ask the driver, and not its own runtime, whether there is a GPU. Where there is
    no driver it is looked for each time, and torch asks whenever it enters a mode of fake tensors. And the objects of
    all these modules need not be gone through whenever garbage is collected: none of them goes.
    """
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Let a test's random numbers not depend on what ran before it in the same process."""
    torch.manual_seed(0)


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.option.hypothesis_seed
    repeat = f", --hypothesis-seed={seed} repeats it" if seed is not None else ""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return [f"examples: {_PROFILE}{repeat}", f"torch: {torch.__version__}, {capability}, threads: {threads}"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.no_skips and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if config.option.no_skips and skipped:
        terminalreporter.write_line(f"--no-skips: {len(skipped)} skipped, so this run has failed", red=True)
