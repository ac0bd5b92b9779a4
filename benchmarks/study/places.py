"""Where to grow: what each score says of blocks, or of kinds of branches, right before the places of growth are tried.

The places themselves are arms like others (`placing.py`). A score chooses among them, so that what it would have gained
stands in their records.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from study import block_scores, jsonl, kind_scores
from study.arms import Arm
from study.block_scores import Score, trial_names, trials
from study.groups import GROUPS, Group
from study.plan import tuned
from study.records import Records, cell, circumstances
from study.rewrites import Site
from study.running import Progress, probe, reach
from study.snapshots import Snapshots
from study.state import State
from study.tasks import Members

_PROBE = 1_024  #: samples that a score sees


def run(tasks: Sequence[str], records: Records, snapshots: Snapshots) -> None:
    """Measure for every group of places whose rate is tuned; scores that are recorded are not measured again."""
    for group in (group for group in scored_groups() if group.task.name in tasks):
        rate = _rate(group, records)
        if rate is None:
            arm = group.rate_of or group.baseline
            print(f"{group.task.name}, {group.places}: waits for the rate of '{arm.name}'")
            continue
        for seeds in _chunks(group):
            known = _scores_of_all(read(records, group), seeds)
            members = tuple((rate, seed) for seed in seeds)
            jsonl.append(_file(records, group), _rows(group, members, snapshots, known))


def scored_groups() -> list[Group]:
    """Return the groups of places for which scores are measured; what a score says of a FLOP follows from these."""
    return [group for group in GROUPS if group.places and group.per == "parameter"]


def _scores_of_all(rows: Sequence[jsonl.Row], seeds: Sequence[int]) -> set[str]:
    """Return the names of the scores that are recorded of all of some seeds."""
    known = {(row["score"], row["seed"]) for row in rows}
    return {name for name, _ in known if all((name, seed) in known for seed in seeds)}


def read(records: Records, group: Group) -> list[jsonl.Row]:
    """Return what is recorded of a group of places, of its arms as they are and at the rate that is the tuned one."""
    rate, digest = _rate(group, records), _digest(group)
    rows = jsonl.read(_file(records, group))
    return [row for row in rows if row["rate"] == rate and row.get("digest", digest) == digest]


def _file(records: Records, group: Group) -> Path:
    return records.folder / group.places / f"{group.task.name}.jsonl"


def _digest(group: Group) -> str:
    """Return a digest of what is measured, with the arms that are tried; the first records have none."""
    said = [cell(group.task, arm, 0.0, 0).digest for arm in _tried(group)], _PROBE
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def _tried(group: Group) -> tuple[Arm, ...]:
    """Return the arms between which the trials decide: a block each is left out, or a kind each grows."""
    return group.arms[:4]


def _rate(group: Group, records: Records) -> float | None:
    return tuned(records, group.task, group.rate_of or group.baseline, tuple(range(group.task.tuning)))


def _chunks(group: Group) -> Iterator[tuple[int, ...]]:
    """Yield the seeds that the arms train in one batch, so that their snapshots are found."""
    seeds = group.seeds
    for first in range(0, len(seeds), group.task.together):
        yield seeds[first : first + group.task.together]


def _rows(group: Group, members: Members, snapshots: Snapshots, known: set[str]) -> Iterator[jsonl.Row]:
    """Yield a row for each seed and each score that is not known."""
    task, arms, source = group.task, _tried(group), group.task.source()
    scores = block_scores.scores(source) if group.places == "blocks" else kind_scores.scores(source, arms)
    wanted = {name: score for name, score in scores.items() if name not in known}
    tried = trial_names() <= known
    if not wanted and tried:
        return
    seeds, step = tuple(seed for _, seed in members), arms[0].events[0].at
    progress = reach(task, arms[0], members, step, snapshots)
    site = Site(task.architecture, seeds, step, probe(task, source, seeds, step, _PROBE))
    measures: dict[str, Callable[[], Mapping[str, Tensor]]] = {
        name: partial(_one, name, score, progress.state, site) for name, score in wanted.items()
    }
    if not tried:
        measures["trials"] = partial(_tried_for_a_while, group, progress, members, site)
    for measure in measures.values():
        begun = time.process_time()
        found = measure()
        seconds = round((time.process_time() - begun) / len(members), 3)
        for name, values in found.items():
            for index, (rate, seed) in enumerate(members):
                said = {"score": name, "seed": seed, group.places: values[index].tolist(), "seconds": seconds}
                settings = {"task": task.name, "digest": _digest(group), "rate": rate, "step": step}
                yield {**settings, **said, **circumstances()}


def _tried_for_a_while(group: Group, progress: Progress, members: Members, site: Site) -> dict[str, Tensor]:
    """Return what trials say for growth: the loss where a block does not grow, the less loss where a kind does."""
    sign = 1 if group.places == "blocks" else -1
    found = trials(progress, group.task, _tried(group), members, site)
    return {name: sign * losses for name, losses in found.items()}


def _one(name: str, score: Score, state: State, site: Site) -> dict[str, Tensor]:
    return {name: score(state, site)}
