"""Where to grow: what each score says of blocks, or of kinds of branches, right before the places of growth are tried.

The places themselves are arms like others (`placing.py`). A score chooses
among them, so that what it would have gained stands in their records.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from study import block_scores, kind_scores
from study.block_scores import Score, trials
from study.groups import GROUPS, Group
from study.plan import fresh_seeds, tuned
from study.records import Records, circumstances
from study.rewrites import Site
from study.running import reach
from study.snapshots import Snapshots
from study.state import State
from study.tasks import Members, batch

_PROBE = 1_024  #: samples that a score sees

Row = dict[str, object]


def run(folder: Path, tasks: Sequence[str], records: Records, snapshots: Snapshots) -> None:
    """Measure for every group of places whose rate is tuned; what is recorded is not run again."""
    for group in GROUPS:
        if group.places and group.task.name in tasks and (rate := _rate(group, records)):
            for seeds in _chunks(group):
                if not set(seeds) <= {row["seed"] for row in read(folder, group)}:
                    _add(_file(folder, group), _rows(group, tuple((rate, seed) for seed in seeds), snapshots))


def read(folder: Path, group: Group) -> list[Row]:
    """Return what is recorded of a group of places."""
    file = _file(folder, group)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _file(folder: Path, group: Group) -> Path:
    return folder / group.places / f"{group.task.name}.jsonl"


def _add(file: Path, rows: Iterator[Row]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as opened:
        opened.write(text)


def _rate(group: Group, records: Records) -> float | None:
    return tuned(records, group.task, group.rate_of or group.baseline, tuple(range(group.task.tuning)))


def _chunks(group: Group) -> Iterator[tuple[int, ...]]:
    """Yield the seeds that the arms train in one batch, so that their snapshots are found."""
    seeds = fresh_seeds(group.fresh)
    for first in range(0, len(seeds), group.task.together):
        yield seeds[first : first + group.task.together]


def _rows(group: Group, members: Members, snapshots: Snapshots) -> Iterator[Row]:
    """Yield a row for each score and seed."""
    task, arms = group.task, group.arms[:4]
    seeds, step = tuple(seed for _, seed in members), arms[0].events[0].at
    progress = reach(task, arms[0], members, step, snapshots)
    source = task.source()

    def probe() -> tuple[Tensor, Tensor]:
        return batch(source, replace(task, batch=_PROBE), seeds, -step, 1.0)

    site = Site(task.architecture, seeds, step, probe)
    scores = block_scores.scores(source) if group.places == "blocks" else kind_scores.scores(source, arms)
    measures: dict[str, Callable[[], Mapping[str, Tensor]]] = {
        name: partial(_one, name, score, progress.state, site) for name, score in scores.items()
    }
    measures["trials"] = partial(trials, progress, task, arms, members, site)
    for measure in measures.values():
        begun = time.process_time()
        found = measure()
        seconds = round((time.process_time() - begun) / len(members), 3)
        for name, values in found.items():
            for index, (rate, seed) in enumerate(members):
                said = {"score": name, "seed": seed, group.places: values[index].tolist(), "seconds": seconds}
                yield {"task": task.name, "rate": rate, "step": step, **said, **circumstances()}


def _one(name: str, score: Score, state: State, site: Site) -> dict[str, Tensor]:
    return {name: score(state, site)}
