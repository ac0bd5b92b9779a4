"""Stages as data: which share of a model runs, and for how long it does."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxgrow.errors import PlanError
from fxgrow.progressive.parts import Parts


@dataclass(frozen=True)
class Stage:
    """What runs of a model.

    Args:
        depth: The share of the blocks in each run of blocks that are alike, at least one of each; or the paths of the
            blocks that run, of those that can be left out.
        width: The share of the hidden units of each MLP and of the heads of each attention that run: the first ones.
    """

    depth: float | tuple[str, ...] = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        shares = [self.width] if isinstance(self.depth, tuple) else [self.width, self.depth]
        if not all(0 < share <= 1 for share in shares):
            raise PlanError("shares of a model lie between 0 and 1", where=str(self), fix="give 1 for all of it")


def make_stages(depth: float, width: float, stages: Iterable[Stage] | None) -> tuple[Stage, ...]:
    """Return the stages that were given; without them, those that double the shares until all of the model runs.

    Example:
        >>> [stage.depth for stage in make_stages(1 / 8, 1.0, None)]
        [0.125, 0.25, 0.5, 1.0]
    """
    if stages is None:
        count = max(math.ceil(-math.log2(share)) for share in (depth, width))
        found = [Stage(min(1.0, depth * 2**index), min(1.0, width * 2**index)) for index in range(count)]
    else:
        found = list(stages)
    if not found or found[-1] != Stage():
        found.append(Stage())
    return tuple(found)


def check_schedule(at: Iterable[float], stages: Sequence[Stage]) -> tuple[float, ...]:
    """Return when each advance is due.

    Raises:
        PlanError: If there are more or fewer times than advances, or they do not ascend.
    """
    times = tuple(at)
    if times and (len(times) != len(stages) - 1 or list(times) != sorted(set(times))):
        fix = f"give {len(stages) - 1} ascending times, one for each advance"
        raise PlanError(f"{times} is no schedule for {len(stages)} stages", where="at", fix=fix)
    return times


def running_parts(parts: Parts, stages: Sequence[Stage]) -> tuple[frozenset[int], ...]:
    """Return for each stage the parts that run: each stage has all that the one before it had.

    Shares are taken evenly, from the last stage to the first, each out of the one behind it.

    Raises:
        PlanError: If no block can be left out where one shall be, a stage leaves out what ran before it, or a block
            that wakes has none of its kind to start from.
    """
    if not parts.parts and any(stage.depth != 1 for stage in stages):
        path, reason = next(iter(parts.reasons.items()), ("the model", "it has no residual blocks"))
        raise PlanError(f"no block can be left out: {reason}", where=path, fix="train the model as it is")
    chosen = [frozenset(range(len(parts.parts)))]
    for stage in reversed(stages[:-1]):
        chosen.insert(0, _running(parts, stage, chosen[0]))
    for index, (before, after) in enumerate(itertools.pairwise(chosen)):
        if not before <= after:
            lost = parts.parts[min(before - after)].path
            what = "it runs in the stage before and not in this one"
            fix = "let each stage run what the one before it runs"
            raise PlanError(what, where=f"stage {index + 1}: {lost}", fix=fix)
        for woken in after - before:
            source_of(parts, woken, before)
    return tuple(chosen)


def _running(parts: Parts, stage: Stage, later: frozenset[int]) -> frozenset[int]:
    if isinstance(stage.depth, tuple):
        return frozenset(parts.index_of(path) for path in stage.depth)
    running: set[int] = set()
    for run in parts.runs():
        awake = [index for index in run if index in later]
        count = min(len(awake), math.ceil(len(run) * stage.depth - 1e-9))
        running.update(awake[place * len(awake) // count] for place in range(count))
    return frozenset(running)


def source_of(parts: Parts, woken: int, running: frozenset[int]) -> int:
    """Return the part from which one that wakes starts: the last of its kind before it, or the first behind it.

    Raises:
        PlanError: If none of its kind runs.
    """
    alike = [index for index in sorted(running) if parts.parts[index].run == parts.parts[woken].run]
    if not alike:
        what = "no block of its kind runs in the stage before, from which it could start"
        raise PlanError(what, where=parts.parts[woken].path, fix="let one of them run from the start")
    return max((index for index in alike if index < woken), default=alike[0])
