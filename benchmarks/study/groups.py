"""What is compared with what: groups of arms, each with its baseline, in the order in which they run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from study.arms import Arm, Event, depth, evenly
from study.fitting import FittedHalfSteps
from study.networks import Shape
from study.rewrites import Copies, FreshBlocks, HalfSteps, Rewrite, Widen
from study.schedules import Cycle
from study.tasks import TASKS, Task
from study.units import HalfUnits


@dataclass(frozen=True)
class Group:
    """Arms that are compared with one baseline.

    Attributes:
        baseline: what the others are compared with; it runs with them.
        fresh: on how many fresh seeds they run at their tuned rates; 0: over the grid of rates, on the tuning seeds.
    """

    title: str
    task: Task
    baseline: Arm
    arms: tuple[Arm, ...]
    fresh: int = 0

    def on(self, fresh: int) -> "Group":
        """Return the same comparison on fresh seeds."""
        return replace(self, fresh=fresh)


EARLY = (0.05, 0.12, 0.3)
MIDDLE = (0.1, 0.25, 0.5)
LATE = (0.2, 0.4, 0.65)
HALF = HalfSteps()


def scratch(task: Task, blocks: int, scale: float = 1.0, cycles: int = 1, suffix: str = "", **options: object) -> Arm:
    """Train the network of so many blocks from its first step, for a share of the task's steps."""
    name = f"scratch {blocks}{_said(scale, cycles)}{suffix}"
    return Arm(name, depth(task.block, blocks), evenly(round(scale * task.steps), cycles), **options)  # type: ignore[arg-type]


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

#: tasks on which two cosine cycles, the second with twice the peak, are better for everybody
_CYCLES = {"mnist1d-mlp": 2, "mnist1d-transformer": 2, "mnist1d-convnet": 2}


def core(task: Task, cycles: int = 1, scales: Sequence[float] = (1.0, 0.7, 0.5)) -> list[Arm]:
    """Return the frontier: from scratch and grown by half-steps, for several lengths."""
    return [
        scratch(task, 8, 1.0, cycles),
        *(grown(task, FULL, MIDDLE, scale, cycles) for scale in scales),
        *(scratch(task, 8, scale, cycles) for scale in scales[1:]),
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


def schedules(task: Task, cycles: int = 1, scale: float = 0.7) -> list[Arm]:
    """Return other rates and moments in time for the same stages."""
    return [
        grown(task, FULL, EARLY, scale, cycles),
        grown(task, FULL, LATE, scale, cycles),
        grown(task, FULL, MIDDLE, scale, cycles, rewarm=0.02, named="half, re-warmed"),
        grown(task, FULL, MIDDLE, scale, cycles, factors=(0.7, 0.7, 0.7), named="half, rate x 0.7 a stage"),
        grown(task, FULL, MIDDLE, scale, schedule=_held(task, scale), named="half, held"),
        grown(task, FULL, LATE, scale, schedule=_held(task, scale), named="half, held"),
        _scratch_held(task, scale),
    ]


def _scratch_held(task: Task, scale: float) -> Arm:
    return Arm(f"scratch 8{_said(scale, 1)}, held", depth(task.block, 8), _held(task, scale))


def uniform(task: Task, cycles: int = 1) -> list[Arm]:
    """Return other ways to spend as much on networks that do not grow: depth, cycles, start."""
    other = 1 if cycles > 1 else 2
    return [
        scratch(task, 8, 1.0, other),
        scratch(task, 4, 1.0, cycles),
        scratch(task, 4, 1.4, cycles),
        scratch(task, 8, 1.0, cycles, suffix=", last maps zero", zero=True),
        grown(task, FULL, MIDDLE, 1.0, other),
    ]


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


def equal_parameters(task: Task) -> list[Arm]:
    """Return the nets of 0.9 of the full model's parameters, all at its cost for 0.9: two cycles for everybody."""
    full = task.steps * 18_730 * 0.9
    half, uniform, thin = (Shape(hidden=hidden) for hidden in (32, 56, 31))
    first = round(full / (10_410 + 16_514))

    def arm(name: str, start: tuple[Shape, ...], steps: Sequence[int], events: Sequence[tuple[int, Rewrite]]) -> Arm:
        cycles = (Cycle(steps[0]), Cycle(steps[1], peak=2.0))
        return Arm(name, start, cycles, tuple(Event(at, rewrite) for at, rewrite in events))

    thin_steps = round(full / 16_483 / 2)
    grown_steps = round(full / 24_100)
    return [
        arm("uniform 0.9", depth(uniform, 4), (round(full / 16_650 / 2),) * 2, ()),
        arm("half-steps of 22 units", depth(half, 4), (first, first), [(first, HalfUnits(22))]),
        arm("half-steps of 22 random units", depth(half, 4), (first, first), [(first, HalfUnits(22, "random"))]),
        arm("half-steps of 22 smallest units", depth(half, 4), (first, first), [(first, HalfUnits(22, "smallest"))]),
        arm("widen by 24 units", depth(half, 4), (first, first), [(first, Widen(24))]),
        arm("widen by 12 pairs", depth(half, 4), (first, first), [(first, Widen(24, "pairs"))]),
        arm("scratch 7 of 31 units", depth(thin, 7), (thin_steps,) * 2, ()),
        arm(
            "half 1-2-4-7 of 31 units",
            depth(thin, 1),
            (grown_steps,) * 2,
            [
                (round(0.2 * grown_steps), HALF),
                (round(0.5 * grown_steps), HALF),
                (grown_steps, HalfSteps((0, 1, 2))),
            ],
        ),
        arm(
            "half 1-2-4 of 32 units, then 22 units",
            depth(half, 1),
            (round(full / 24_320),) * 2,
            [
                (round(0.2 * full / 24_320), HALF),
                (round(0.5 * full / 24_320), HALF),
                (round(full / 24_320), HalfUnits(22)),
            ],
        ),
    ]


_MLP, _TEXT, _WARPED = TASKS["mnist1d-mlp"], TASKS["text"], TASKS["warped-digits"]

#: the smaller and the bigger uniform network of a task: unless the bigger one is better by more than 3 standard errors,
#: nothing can be learnt from growing there
GATES: dict[str, tuple[Arm, Arm]] = {
    name: (scratch(task, 2, cycles=cycles), scratch(task, 8, cycles=cycles))
    for name, task in TASKS.items()
    for cycles in [_CYCLES.get(name, 1)]
}


def _group(title: str, task: Task, arms: Sequence[Arm], baseline: Arm | None = None) -> Group:
    """Return a group; its baseline is the full network from scratch for all steps, unless another is given."""
    baseline = baseline or GATES[task.name][1]
    return Group(title, task, baseline, tuple(arm for arm in arms if arm != baseline))


def _with(task: Task, word: str, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms of one kind, by the beginning of their names."""
    return tuple(arm for arm in arms if arm.name.startswith(word) and arm != GATES[task.name][1])


@dataclass(frozen=True)
class Frontier:
    """Arms of one kind at several costs: where do they reach the loss of the baseline?"""

    title: str
    task: Task
    baseline: Arm
    arms: tuple[Arm, ...]
    fresh: int


def _frontiers(task: Task, arms: Sequence[Arm], fresh: int) -> tuple[Frontier, ...]:
    """Return grown networks against the one from scratch, and shorter runs from scratch against it."""
    base = GATES[task.name][1]
    grown, plain = (_with(task, word, arms) for word in ("half 1-2-4-8 at 10/25/50", "scratch 8"))
    return (
        Frontier("1-2-4-8 by half-steps", task, base, grown, fresh),
        Frontier("8 blocks from scratch", task, base, (base, *plain), fresh),
    )


_MLP_CORE, _TEXT_CORE, _WARPED_CORE = core(_MLP, 2), core(_TEXT, scales=(1.0, 0.8, 0.6)), core(_WARPED)
_EQUAL = equal_parameters(_MLP)

FRONTIERS: tuple[Frontier, ...] = (
    *_frontiers(_MLP, _MLP_CORE, 18),
    *_frontiers(_TEXT, _TEXT_CORE, 3),
    *_frontiers(_WARPED, _WARPED_CORE, 3),
)

GROUPS: tuple[Group, ...] = (
    _group("Cost", _MLP, _MLP_CORE),
    _group("Cost", _TEXT, _TEXT_CORE),
    _group("Uniform networks", _MLP, uniform(_MLP, cycles=2)),
    _group("Equal parameters and equal cost", _MLP, _EQUAL[1:], _EQUAL[0]),
    _group("Uniform networks", _TEXT, uniform(_TEXT)),
    _group("Stages", _MLP, stages(_MLP, cycles=2)),
    _group("Schedules", _MLP, schedules(_MLP, cycles=2)),
    _group("Stages", _TEXT, stages(_TEXT)),
    _group("Schedules", _TEXT, schedules(_TEXT)),
    _group("Cost", _MLP, _MLP_CORE).on(18),
    _group("Equal parameters and equal cost", _MLP, _EQUAL[1:], _EQUAL[0]).on(18),
    _group("Cost", _WARPED, _WARPED_CORE),
    _group("Cost", _TEXT, _TEXT_CORE).on(3),
    _group("Operators", _MLP, operators(_MLP, cycles=2)),
    _group("Cost", _WARPED, _WARPED_CORE).on(3),
    _group("Operators", _TEXT, operators(_TEXT)),
)
