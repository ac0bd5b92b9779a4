"""One process for each model, with limits on time and memory; what it finds comes back piece by piece."""

import multiprocessing
import os
import re
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from model_census.candidates import Candidate
from model_census.results import Failure, Result

#: What the server that forks the processes has imported, so that no model pays for it.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch._functorch.aot_autograd",
    "timm",
    "torchvision",
    "transformers.modeling_utils",
    "fxgrow",
    "model_census.stages",
    "model_census.deepening",
)

#: where files lie on this machine, in front of what they are called in a package or in this repository
_FOLDERS = re.compile(r"/\S*/(?=site-packages/|benchmarks/|fxgrow/|passes/)")

#: what the server of processes may take until the first stage begins: on a busy machine its imports take minutes
_SECONDS_TO_START = 600.0


@dataclass(frozen=True)
class Limits:
    """What one model may use."""

    seconds: float = 900.0
    gigabytes: float = 12.0
    threads: int = 1


def census(
    candidates: list[Candidate],
    limits: Limits,
    *,
    jobs: int,
    backend: str,
    started: Callable[[Candidate], None],
    way: str = "stages",
) -> Iterator[Result]:
    """Yield a result for each candidate as it is done; `jobs` of them run at a time.

    `way` is the module here that says which stages they go through, in one process and in a later one.
    """
    context = multiprocessing.get_context("forkserver")
    # The server learns of this folder from the environment only, and PyTorch's threads cannot be changed after a fork.
    here = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    os.environ["OMP_NUM_THREADS"] = str(limits.threads)
    # Each large tensor goes back to the system when it is freed, or the limit would count what is long gone.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    # tqdm, which timm's dependencies import, keeps a semaphore until the server ends, and the tracker complains of it.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    context.set_forkserver_preload(list(PRELOADED))
    waiting, running = list(candidates), list[_Run]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                candidate = waiting.pop(0)
                started(candidate)
                running.append(_Run(context, candidate, limits, backend, way))
            wait([run.connection for run in running], timeout=1.0)
            for run in list(running):
                if run.advance():
                    running.remove(run)
                    yield run.result()
    finally:
        for run in running:
            run.stop()


class _Run:
    """One candidate's two processes, one after the other: the way to the file, and the way back from it."""

    def __init__(self, context: Any, candidate: Candidate, limits: Limits, backend: str, way: str) -> None:
        self.context, self.candidate, self.limits, self.backend, self.way = context, candidate, limits, backend, way
        self.folder = tempfile.TemporaryDirectory(prefix="fxgrow-census-")
        self.started = time.monotonic()
        self.stage, self.since = "started", self.started
        self.deadline = self.started + _SECONDS_TO_START + limits.seconds
        self.stages: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.failure: Failure | None = None
        self._start(later=False)

    def _start(self, *, later: bool) -> None:
        self.later = later
        self.connection, there = self.context.Pipe(duplex=False)
        facts = self.facts if later else None
        work = (there, self.candidate, self.folder.name, self.backend, self.limits, self.way, facts)
        self.process = self.context.Process(target=_work, args=work, daemon=True)
        self.process.start()
        there.close()

    def advance(self) -> bool:
        """Take in what the process has said; return whether the candidate is done."""
        ended = self._read()
        if not ended and time.monotonic() > self.deadline:
            self.failure = Failure(self.stage, "TimeoutError", f"it took more than {self.limits.seconds:g} s in all")
            ended = True
        if not ended:
            return False
        self.stop()
        if self.failure is None and not self.later:
            self._start(later=True)
            return False
        return True

    def _read(self) -> bool:
        """Take in messages; return whether the process has ended."""
        try:
            while self.connection.poll():
                kind, value = self.connection.recv()
                if kind == "stage":
                    if self.stage == "started":
                        self.deadline = time.monotonic() + self.limits.seconds
                    self.stage, self.since = value, time.monotonic()
                elif kind == "passed":
                    self.stages[value] = round(time.monotonic() - self.since, 2)
                elif kind == "facts":
                    self.facts.update(value)
                elif kind == "failed":
                    self.failure = Failure(*value)
                elif kind == "done":
                    return True
        except EOFError:
            if self.failure is None:
                self.process.join()
                code = self.process.exitcode
                self.failure = Failure(self.stage, "ProcessError", f"the process ended with exit code {code}")
            return True
        return self.failure is not None

    def stop(self) -> None:
        """End the process."""
        self.process.join(0 if self.failure is not None else 5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def result(self) -> Result:
        """Return what was found, and remove the files."""
        self.folder.cleanup()
        seconds = round(time.monotonic() - self.started, 1)
        return Result.of(self.candidate, self.stages, self.facts, self.failure, seconds)


def _work(
    connection: Connection,
    candidate: Candidate,
    folder: str,
    backend: str,
    limits: Limits,
    way: str,
    facts: dict[str, Any] | None,
) -> None:
    """Go through the stages of a way, in a process of its own; `facts` are given to the later one."""
    limit = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    _silence()
    from model_census.stages import Subject

    stages = import_module(f"model_census.{way}")
    subject = Subject(candidate, Path(folder), backend, dict(facts or {}))
    for name, run in (stages.STAGES if facts is None else stages.LATER).items():
        connection.send(("stage", name))
        try:
            run(subject)
        except Exception as error:  # whatever a model's code raises is a result
            connection.send(("facts", {**subject.facts, "traceback": traceback.format_exc()[-4000:]}))
            connection.send(("failed", (name, type(error).__name__, _one_line(error))))
            return
        connection.send(("passed", name))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        connection.send(
            ("facts", {**subject.facts, "peak_megabytes": max(peak, subject.facts.get("peak_megabytes", 0))})
        )
    connection.send(("done", None))


def _silence() -> None:
    """Send what libraries print and log to nowhere: a failed export logs its whole graph into the progress bar."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _one_line(error: BaseException) -> str:
    message = _FOLDERS.sub("", " ".join(str(error).split()))
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{message[:300]}… ({notes})" if notes else message[:300]
