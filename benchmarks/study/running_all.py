"""All experiments in their order, those that are recorded left out, with the time that is left."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.arms import Arm
from study.costs import flops
from study.plan import Experiment
from study.records import Records, cell
from study.running import run
from study.snapshots import Snapshots
from study.tasks import Task

_SECONDS_PER_FLOP = 1e-10  #: a first guess; replaced by what the runs take


@dataclass(frozen=True)
class Job:
    """Some seeds of one arm at one rate, trained in one batch."""

    task: Task
    arm: Arm
    rate: float
    seeds: tuple[int, ...]

    def work(self) -> float:
        """Return about how many operations it takes: as if it had its first shape for all steps, grown by half."""
        return 1.5 * flops(self.task.architecture, self.arm.start) * self.task.batch * self.arm.steps * len(self.seeds)


def jobs(experiments: Sequence[Experiment], records: Records) -> Iterator[Job]:
    """Yield what is not recorded, in order."""
    seen = set()
    for experiment in experiments:
        for rate in experiment.rates(records):
            cells = {seed: cell(experiment.task, experiment.arm, rate, seed) for seed in experiment.seeds}
            missing = [seed for seed, key in cells.items() if key not in records and key not in seen]
            seen |= set(cells.values())
            size = experiment.task.together
            for first in range(0, len(missing), size):
                yield Job(experiment.task, experiment.arm, rate, tuple(missing[first : first + size]))


def run_all(experiments: Sequence[Experiment], records: Records, folder: Path) -> None:
    """Run what is missing; each finished job is recorded before the next one begins."""
    done = spent = 0.0
    while True:
        left = list(jobs(experiments, records))
        if not left:
            return
        job, begun = left[0], time.monotonic()
        found = run(job.task, job.arm, job.rate, job.seeds, Snapshots(folder))
        records.add(job.task, job.arm, job.rate, found)
        done, spent = done + job.work(), spent + time.monotonic() - begun
        hours = sum(other.work() for other in left[1:]) * spent / done / 3600
        loss = sum(float(str(row["loss"])) for row in found) / len(found)
        print(
            f"{time.strftime('%H:%M:%S')} {job.task.name} {job.arm.name} rate {job.rate} seeds {job.seeds[0]}-"
            f"{job.seeds[-1]}: loss {loss:.4f}, {time.monotonic() - begun:.0f} s; {len(left) - 1} jobs, about {hours:.1f} h left",
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
