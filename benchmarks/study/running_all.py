"""All experiments in their order, those that are recorded left out, with the time that is left."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.arms import Arm
from study.costs import flops
from study.plan import Experiment, binds, gate
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
    """Run what is missing; each finished job is recorded before the next one begins."""
    done = spent = 0.0
    while True:
        left = list(jobs(experiments, records, gated))
        if not left:
            return
        job, begun = left[0], time.monotonic()
        found = run(job.task, job.arm, job.members, Snapshots(folder))
        records.add(job.task, job.arm, found)
        took = time.monotonic() - begun
        done, spent = done + job.work(), spent + took
        hours = sum(other.work() for other in left[1:]) * spent / done / 3600
        best = min(float(str(row["loss"])) for row in found)
        print(
            f"{time.strftime('%H:%M:%S')} {job.task.name}: {job.arm.name}, {len(found)} networks, {took:.0f} s, "
            f"least loss {best:.4f}; {len(left) - 1} jobs known, about {hours:.1f} h left",
            flush=True,
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
