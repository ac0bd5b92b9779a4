"""The arms, by what they are to show: lengths, operators, schedules, stages, uniform networks, equal parameters."""

from collections.abc import Sequence
from dataclasses import replace

from study.arms import Arm, Event, depth, evenly
from study.fitting import FittedHalfSteps
from study.rewrites import AtOwnRate, Copies, FreshBlocks, HalfSteps, Restart, Rewrite, Stack, Then
from study.schedules import Cycle
from study.tasks import Task

EARLY = (0.05, 0.12, 0.3)
MIDDLE = (0.1, 0.25, 0.5)
LATE = (0.2, 0.4, 0.65)
HALF = HalfSteps()
NOTHING = Then(())


def scratch(task: Task, blocks: int, scale: float = 1.0, cycles: int = 1) -> Arm:
    """Train the network of so many blocks from its first step, for a share of the task's steps."""
    name = f"scratch {blocks}{_said(scale, cycles)}"
    return Arm(name, depth(task.block, blocks), evenly(round(scale * task.steps), cycles))


def grown(
    task: Task,
    blocks: Sequence[int],
    at: Sequence[float],
    scale: float = 1.0,
    cycles: int = 1,
    how: Rewrite | Sequence[Rewrite] = HALF,
    named: str = "half",
    schedule: tuple[Cycle, ...] | None = None,
    rewarm: float = 0.0,
    factors: Sequence[float] | None = None,
) -> Arm:
    """Begin with few blocks and double them at shares of the run."""
    schedule = schedule or evenly(round(scale * task.steps), cycles)
    total = sum(cycle.steps for cycle in schedule)
    hows = [how] * len(at) if callable(how) else how
    factors = factors or [1.0] * len(at)
    events = tuple(
        Event(round(share * total), each, factor, round(rewarm * total))
        for share, each, factor in zip(at, hows, factors, strict=True)
    )
    path, when = "-".join(map(str, blocks)), "/".join(f"{100 * share:.0f}" for share in at)
    name = f"{named} {path} at {when}{_said(scale, cycles)}"
    return Arm(name, depth(task.block, blocks[0]), schedule, events)


def _said(scale: float, cycles: int) -> str:
    length = "" if scale == 1 else f", {scale:g} of the steps"
    return length + (f", {cycles} cycles" if cycles > 1 else "")


def _held(task: Task, scale: float = 1.0, hold: float = 0.7) -> tuple[Cycle, ...]:
    """Return warm-up, stable, decay."""
    return (Cycle(round(scale * task.steps), hold=hold),)


FULL = (1, 2, 4, 8)


def core_held(task: Task, scales: Sequence[float]) -> list[Arm]:
    """Return the frontier with rates that are held, in place of cycles."""
    return [
        scratch_held(task, 1.0),
        *(grown_held(task, MIDDLE, scale) for scale in scales),
        *(scratch_held(task, scale) for scale in scales if scale < 1),
    ]


def core(task: Task, cycles: int = 1, scales: Sequence[float] = (1.0, 0.7, 0.5)) -> list[Arm]:
    """Return the frontier: from scratch and grown by half-steps, for several lengths."""
    return [
        scratch(task, 8, 1.0, cycles),
        *(grown(task, FULL, MIDDLE, scale, cycles) for scale in scales),
        *(scratch(task, 8, scale, cycles) for scale in scales if scale < 1),
    ]


def operators(task: Task, cycles: int = 1) -> list[Arm]:
    """Return the same event by other operators: what makes half-steps win."""
    named: dict[str, Rewrite] = {
        "half": HALF,
        "half, moments copied": HalfSteps(moments="copied"),
        "half, moments scaled": HalfSteps(moments="scaled"),
        "half, fitted": FittedHalfSteps(),
        "zero copies": Copies(),
        "zero copies, moments fresh": Copies(moments="fresh"),
        "half copies": Copies(scale=0.5, moments="fresh"),
        "full copies": Copies(scale=1.0, moments="fresh"),
        "fresh blocks, zero": FreshBlocks(),
        "fresh blocks, half": FreshBlocks(0.5),
    }
    return [grown(task, (4, 8), (0.5,), cycles=cycles, how=how, named=name) for name, how in named.items()]


def stacking(task: Task, scale: float, cycles: int = 1) -> list[Arm]:
    """Return the same stages by half-steps, by silent copies, and by stacking."""
    ways: dict[str, Rewrite] = {"half": HALF, "silent copies": Copies(), "stacked": Stack()}
    return [grown(task, FULL, MIDDLE, scale, cycles, how=how, named=name) for name, how in ways.items()]


def schedules(task: Task, cycles: int = 1, scale: float = 0.7) -> list[Arm]:
    """Return other rates and moments in time for the same stages."""
    return [
        grown(task, FULL, EARLY, scale, cycles),
        grown(task, FULL, LATE, scale, cycles),
        grown(task, FULL, MIDDLE, scale, cycles, rewarm=0.02, named="half, re-warmed"),
        grown(task, FULL, MIDDLE, scale, cycles, factors=(0.7, 0.7, 0.7), named="half, rate x 0.7 a stage"),
        grown_held(task, MIDDLE, scale),
        grown_held(task, LATE, scale),
        scratch_held(task, scale),
        _small_batches_first(grown(task, FULL, MIDDLE, scale, cycles)),
        _small_batches_first(scratch(task, 8, scale, cycles)),
    ]


def raised_in_the_middle(arm: Arm, factor: float) -> Arm:
    """Return an arm whose learning rate is another one from the middle on, where it grows last if it grows."""
    *before, last = arm.events or (Event(arm.steps // 2, NOTHING),)
    name = f"{arm.name}, at {factor:g} of the rate from the middle on"
    return replace(arm, name=name, events=(*before, replace(last, factor=factor)))


def begun_anew(arm: Arm, factor: float) -> Arm:
    """Return an arm whose blocks alone have another rate from there on: as newcomers, or begun anew if none grow."""
    *before, last = arm.events or (Event(arm.steps // 2, Restart()),)
    name = f"{arm.name}, blocks at {factor:g} of the rate from the middle on"
    return replace(arm, name=name, events=(*before, replace(last, rewrite=AtOwnRate(last.rewrite, factor))))


def changed_in_the_middle(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms, and each with other rates from the middle on."""
    changed = [(raised_in_the_middle(arm, 2.0), *(begun_anew(arm, factor) for factor in (2.0, 4.0))) for arm in arms]
    return [*arms, *(each for own in changed for each in own)]


def moments(task: Task, scale: float, cycles: int = 1) -> list[Arm]:
    """Return the same stages in the middle of a run, earlier and later."""
    return [grown(task, FULL, when, scale, cycles) for when in (MIDDLE, EARLY, LATE)]


def grown_held(task: Task, at: Sequence[float], scale: float) -> Arm:
    """Grow while the rate is held at its peak for most of the run."""
    return grown(task, FULL, at, scale, schedule=_held(task, scale), named="half, held")


def scratch_held(task: Task, scale: float) -> Arm:
    """Train the full network by the same schedule."""
    return Arm(f"scratch 8{_said(scale, 1)}, held", depth(task.block, 8), _held(task, scale))


def uniform(task: Task, cycles: int = 1) -> list[Arm]:
    """Return other ways to spend as much on networks that do not grow: depth, cycles, start."""
    other = 1 if cycles > 1 else 2
    return [
        scratch(task, 8, 1.0, other),
        scratch(task, 4, 1.0, cycles),
        scratch(task, 4, 1.4, cycles),
        silent(scratch(task, 8, 1.0, cycles)),
        grown(task, FULL, MIDDLE, 1.0, other),
    ]


def silent(arm: Arm) -> Arm:
    """Return the arm whose first blocks add nothing at the first step: the last map of each branch starts at zero."""
    return replace(arm, name=f"{arm.name}, last maps zero", zero=True)


def _small_batches_first(arm: Arm) -> Arm:
    """Return the arm with half of each mini-batch up to the middle of the run."""
    return replace(arm, name=f"{arm.name}, half batches first", share=((0, 0.5), (arm.steps // 2, 1.0)))


def stages(task: Task, cycles: int = 1) -> list[Arm]:
    """Return fewer and more stages, and more blocks than eight."""
    return [
        grown(task, (1, 2, 4), (0.15, 0.4), 1.0, cycles),
        grown(task, (1, 2, 4), (0.15, 0.4), 0.7, cycles),
        grown(task, (4, 8), (0.4,), 0.7, cycles),
        grown(task, (2, 4, 8), (0.2, 0.5), 0.7, cycles),
        grown(task, (1, 2, 4, 8, 16), (0.08, 0.18, 0.35, 0.6), 0.5, cycles),
        grown(task, (1, 2, 3, 4, 6, 8), (0.1, 0.2, 0.3, 0.4, 0.55), 0.7, cycles, how=_first_blocks_first()),
    ]


def _first_blocks_first() -> tuple[Rewrite, ...]:
    chosen = (None, (0,), (2,), (0, 1), (4, 5))
    return tuple(HalfSteps(blocks) for blocks in chosen)
