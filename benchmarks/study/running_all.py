"""All experiments in their order, those that are recorded left out, with the time that is left."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.arms import Arm
from study.costs import flops
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


def run_all(experiments: Sequence[Experiment], records: Records, folder: Path, gated: bool = True) -> None:
    """Run what is missing; each finished job is recorded before the next one begins.

    The bar counts the work that is known: jobs that wait for a rate or for a gate join it when they can run.
    """
    bar = Bar(0.0)
    while left := list(jobs(experiments, records, gated)):
        bar.total = bar.done + sum(job.work() for job in left)
        job, begun = left[0], time.monotonic()
        said = f"{job.task.name}: {job.arm.name}, {len(job.members)} networks"

        def report(step: int, job: Job = job, said: str = said) -> None:
            bar.show(f"{said}, step {step:,} of {job.arm.steps:,}", job.work() * step / job.arm.steps)

        found = run(job.task, job.arm, job.members, Snapshots(folder), report)
        records.add(job.task, job.arm, found)
        bar.done += job.work()
        bar.clear()
        best = min(float(str(row["loss"])) for row in found)
        print(
            f"{time.strftime('%H:%M:%S')} {said}: {time.monotonic() - begun:.0f} s, least loss {best:.4f}", flush=True
        )


def status(experiments: Sequence[Experiment], records: Records) -> str:
    """Return a line for each experiment: how many of its runs are recorded."""
    lines = []
    for experiment in experiments:
        rates = experiment.rates(records)
        cells = [cell(experiment.task, experiment.arm, rate, seed) for rate in rates for seed in experiment.seeds]
        kind = "fresh seeds" if experiment.confirms else "tuning"
        count = f"{sum(key in records for key in cells)} of {len(cells)}" if cells else "waits for its rate"
        lines.append(f"{experiment.task.name:22} {experiment.arm.name:40} {kind:12} {count}")
    return "\n".join(lines)
