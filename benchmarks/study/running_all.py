"""All experiments in their order, those that are recorded left out, with the time that is left."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from study.arms import Arm
from study.costs import flops
from study.locks import held
from study.plan import Experiment, binds, gate
from study.progress import Bar
from study.records import Cell, Records, cell
from study.running import run
from study.snapshots import Snapshots
from study.tasks import Members, Task


@dataclass(frozen=True)
class Job:
    """Some networks of one arm, trained in one batch."""

    task: Task
    arm: Arm
    members: Members

    @property
    def name(self) -> str:
        """Return what no other job is called."""
        return f"{self.task.name}-{hashlib.sha256(repr(self._cells()).encode()).hexdigest()[:16]}"

    def recorded(self, records: Records) -> bool:
        """Tell whether nothing of it is left to run."""
        return all(key in records for key in self._cells())

    def _cells(self) -> list[Cell]:
        return [cell(self.task, self.arm, rate, seed) for rate, seed in self.members]

    def work(self) -> float:
        """Return about how many operations it takes: a grown network's are taken as 0.7 of its last shape's."""
        last = flops(self.task.architecture, self.arm.start * 2 ** len(self.arm.events))
        return last * self.task.batch * self.arm.steps * len(self.members) * (0.7 if self.arm.events else 1.0)


def jobs(experiments: Sequence[Experiment], records: Records, gated: bool = True) -> Iterator[Job]:
    """Yield what is not recorded, in order; the arms of a task whose gate is closed are left out if ``gated``."""
    seen: set[Cell] = set()
    for experiment in experiments:
        task, arm = experiment.task, experiment.arm
        if gated and not experiment.is_gate and not (task.negative or binds(gate(records, task))):
            continue
        members = [(rate, seed) for rate in experiment.rates(records) for seed in experiment.seeds]
        missing = [(key, member) for member in members if (key := cell(task, arm, *member)) not in records]
        new = tuple(member for key, member in missing if key not in seen)
        seen |= {key for key, _ in missing}
        for first in range(0, len(new), task.together):
            yield Job(task, arm, new[first : first + task.together])


def run_all(experiments: Sequence[Experiment], records: Records, snapshots: Snapshots, gated: bool = True) -> None:
    """Run what is missing; each finished job is recorded before the next one begins.

    The bar counts the work that is known: jobs that wait for a rate or for a gate join it when they can run. What
    another process is running is left out.
    """
    print(_left(experiments, records, gated), flush=True)
    bar, busy = Bar(0.0), set[str]()
    while left := list(jobs(experiments, records, gated)):
        bar.total = bar.done + sum(job.work() for job in left)
        if not any(_run(job, records, snapshots, bar, busy) for job in left):
            print(f"{_count(left)} are left, all being run by other processes: start again when these have ended")
            return


def _run(job: Job, records: Records, snapshots: Snapshots, bar: Bar, busy: set[str]) -> bool:
    """Run a job, unless another process does; tell whether it is recorded."""
    said = f"{job.task.name}: {job.arm.name}, {len(job.members)} networks"
    with held(records.folder / "locks" / job.name) as other:
        if other is not None and job.name not in busy:
            print(f"{said}: is being run by process {other}; it is left out here", flush=True)
            busy.add(job.name)
        if other is not None:
            return False
        records.read()
        if not job.recorded(records):
            _train(job, records, snapshots, bar, said)
    return True


def _train(job: Job, records: Records, snapshots: Snapshots, bar: Bar, said: str) -> None:
    begun = time.monotonic()

    def report(step: int) -> None:
        bar.show(f"{said}, step {step:,} of {job.arm.steps:,}", job.work() * step / job.arm.steps)

    found = run(job.task, job.arm, job.members, snapshots, report)
    records.add(job.task, job.arm, found)
    bar.done += job.work()
    bar.clear()
    best = min(float(str(row["loss"])) for row in found)
    print(f"{time.strftime('%H:%M:%S')} {said}: {time.monotonic() - begun:.0f} s, least loss {best:.4f}", flush=True)


def _left(experiments: Sequence[Experiment], records: Records, gated: bool) -> str:
    """Say how much there is to do."""
    left = list(jobs(experiments, records, gated))
    waiting = "; some wait for their rates" if not all(each.rates(records) for each in experiments) else ""
    if not left:
        known = {key for each in experiments for key in _cells(each, records) if key in records}
        return f"nothing left to run: {len(known)} runs are recorded in {records.folder}{waiting}"
    tasks = ", ".join(dict.fromkeys(job.task.name for job in left))
    return f"{_count(left)} are left, of {tasks}{waiting}"


def _count(left: Sequence[Job]) -> str:
    runs, count = sum(len(job.members) for job in left), len(left)
    return f"{runs} run{'s' * (runs > 1)} in {count} job{'s' * (count > 1)}"


def _cells(experiment: Experiment, records: Records) -> list[Cell]:
    """Return the runs of an experiment whose rates are known."""
    rates = experiment.rates(records)
    return [cell(experiment.task, experiment.arm, rate, seed) for rate in rates for seed in experiment.seeds]


def status(experiments: Sequence[Experiment], records: Records) -> str:
    """Return a line for each experiment: how many of its runs are recorded."""
    lines = []
    for experiment in experiments:
        cells = _cells(experiment, records)
        kind = "fresh seeds" if experiment.confirms else "tuning"
        count = f"{sum(key in records for key in cells)} of {len(cells)}" if cells else "waits for its rate"
        lines.append(f"{experiment.task.name:22} {experiment.arm.name:40} {kind:12} {count}")
    return "\n".join(lines)
