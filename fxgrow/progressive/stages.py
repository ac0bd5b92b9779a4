"""Stages as data: which share of a model runs, and for how long it does."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxgrow.errors import PlanError
from fxgrow.primitives.arguments import check_fields
from fxgrow.progressive.parts import Parts
from fxgrow.training.schedule import At, Schedule, Significance, Times, as_schedule


@dataclass(frozen=True)
class Stage:
    """What runs of a model.

    Args:
        depth: The share of the blocks in each run of blocks that are alike, at least one of each; or the paths of the
            blocks that run, of those that can be left out.
        width: The share of the hidden units of each MLP and of the heads of each attention that run: the first ones.

    Raises:
        PlanError: If a share is no number above 0, up to 1, or a block is named twice.
    """

    depth: float | tuple[str, ...] = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        named = isinstance(self.depth, tuple | list)
        if named:
            object.__setattr__(self, "depth", tuple(self.depth))  # type: ignore[arg-type]
        check_fields(self, PlanError)
        if not all(0 < value <= 1 for value in (self.depth, self.width) if isinstance(value, int | float)):
            fix = "give 1 for all of it, or as depth the paths of blocks in a tuple"
            raise PlanError("shares of a model are numbers between 0 and 1", where=str(self), fix=fix)
        if isinstance(self.depth, tuple) and len(set(self.depth)) < len(self.depth):
            raise PlanError("it names a block twice", where=str(self), fix="name each block once")


def make_stages(depth: float, width: float, stages: Iterable[Stage] | None) -> tuple[Stage, ...]:
    """Return the stages that were given; without them, those that double the shares until all of the model runs.

    Raises:
        PlanError: If they are no stages, or shares are given beside them.

    Example:
        >>> [stage.depth for stage in make_stages(1 / 8, 1.0, None)]
        [0.125, 0.25, 0.5, 1.0]
    """
    first = Stage(depth, width)
    if stages is None:
        if isinstance(first.depth, tuple):
            fix = "name blocks in stages=[Stage(depth=(...))]"
            raise PlanError("it is a share, which doubles from stage to stage", where="depth", fix=fix)
        count = max(math.ceil(-math.log2(share)) for share in (depth, width))
        found = [Stage(min(1.0, depth * 2**index), min(1.0, width * 2**index)) for index in range(count)]
    else:
        found = _given(stages)
        if first != Stage():
            raise PlanError("they are given beside depth= or width=", where="stages", fix="say all of it in stages=")
    if not found or found[-1] != Stage():
        found.append(Stage())
    return tuple(found)


def _given(stages: Iterable[Stage]) -> list[Stage]:
    found = list(stages)
    for stage in found:
        if not isinstance(stage, Stage):
            fix = "give a list of fxgrow.Stage, as stages=[Stage(depth=1 / 4), Stage(depth=1 / 2)]"
            raise PlanError(f"{stage!r} is no stage", where="stages", fix=fix)
    return found


def check_schedule(at: Times, stages: Sequence[Stage]) -> Schedule:
    """Return when advances are due.

    Raises:
        PlanError: If there are more or fewer times than advances, they are no times, or scores would have to be asked.
    """
    schedule = as_schedule(at)
    if isinstance(schedule, Significance):
        what = "it measures scores, at which an advance does not look"
        raise PlanError(what, where=str(schedule), fix="give times, Every or Plateau")
    if isinstance(schedule, At) and schedule.times and len(schedule.times) != len(stages) - 1:
        if len(stages) == 1:
            fix = "give a share below 1 for the first stage, or no times"
            raise PlanError("all of the model runs from the start, and nothing wakes", where="at", fix=fix)
        what = f"{schedule.times} is no schedule for {len(stages)} stages"
        raise PlanError(what, where="at", fix=f"give {len(stages) - 1} times, one for each advance")
    return schedule


def distinct(stages: Sequence[Stage], running: Sequence[object], *, given: bool) -> tuple[int, ...]:
    """Return the places of the stages that do not run the same as the stage behind them.

    Args:
        stages: All stages.
        running: What runs in each.
        given: Whether the stages were given one by one, and not made by doubling a share.

    Raises:
        PlanError: If two that were given run the same.
    """
    same = [index for index, (one, later) in enumerate(itertools.pairwise(running)) if one == later]
    if same and given:
        what = f"nothing wakes behind it: {stages[same[0] + 1]} runs the same blocks and units of this model"
        raise PlanError(what, where=f"stage {same[0]}, {stages[same[0]]}", fix="leave one of them out")
    return tuple(index for index in range(len(stages)) if index not in same)


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
    for index in reversed(range(len(stages) - 1)):
        chosen.insert(0, _running(parts, stages[index], chosen[0], where=f"stage {index}"))
    for index, (before, after) in enumerate(itertools.pairwise(chosen)):
        if not before <= after:
            raise PlanError(_SHRINKS, where=f"stage {index + 1}: {parts.parts[min(before - after)].path}", fix=_ASCEND)
        if stages[index + 1].width < stages[index].width:
            raise PlanError("its width is less than that of the stage before", where=f"stage {index + 1}", fix=_ASCEND)
        for woken in after - before:
            source_of(parts, woken, before)
    return tuple(chosen)


_SHRINKS = "it runs in the stage before and not in this one"
_ASCEND = "let each stage run what the one before it runs"


def _running(parts: Parts, stage: Stage, later: frozenset[int], where: str) -> frozenset[int]:
    if isinstance(stage.depth, tuple):
        return frozenset(parts.index_of(path) for path in stage.depth)
    running: set[int] = set()
    for run in parts.runs():
        awake = [index for index in run if index in later]
        count = math.ceil(len(run) * stage.depth - 1e-9)
        if count > len(awake):
            what = (
                f"it runs {count} of the {len(run)} blocks like {parts.parts[run[0]].path}, the next stage {len(awake)}"
            )
            raise PlanError(what, where=where, fix=_ASCEND)
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
