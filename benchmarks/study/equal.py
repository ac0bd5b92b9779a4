"""Arms of equal parameters and equal cost: which operator, and which units."""

from collections.abc import Sequence
from dataclasses import replace

from study.arms import Arm, Event, depth
from study.families import HALF
from study.networks import Shape
from study.newton import NewtonStep
from study.pseudo import AlongEigenvectors, PseudoLayers
from study.rewrites import HalfSteps, Rewrite, Widen
from study.schedules import Cycle
from study.tasks import Task
from study.units import HalfUnits, NewUnits, SilentUnits

_HALF = depth(Shape(hidden=32), 4)  #: 10,410 parameters, from which the arms grow
_UNIFORM = depth(Shape(hidden=56), 4)  #: 16,650: 0.9 of the full network's
_UNITS = 22  #: thin blocks of so many units behind all four: 16,514


def _cost(task: Task) -> float:
    """Return parameters x steps of the uniform network of 0.9 of the full one's parameters."""
    return task.steps * 18_730 * 0.9


def _arm(name: str, start: tuple[Shape, ...], steps: int, events: Sequence[tuple[int, Rewrite]] = ()) -> Arm:
    """Return an arm with two cycles of so many steps each."""
    cycles = (Cycle(steps), Cycle(steps, peak=2.0))
    return Arm(name, start, cycles, tuple(Event(at, rewrite) for at, rewrite in events))


def uniform(task: Task) -> Arm:
    """Return the baseline: the uniform network of 0.9 of the full one's parameters, from scratch."""
    return _arm("uniform 0.9", _UNIFORM, round(_cost(task) / 16_650 / 2))


def _grown(task: Task, name: str, rewrite: Rewrite, parameters: int = 16_514) -> Arm:
    """Begin with half of the hidden units, and grow to so many parameters when the second cycle begins."""
    steps = round(_cost(task) / (10_410 + parameters))
    return _arm(name, _HALF, steps, [(steps, rewrite)])


def growing(task: Task) -> list[Arm]:
    """Return what grows by each operator to the baseline's parameters, at its cost."""
    return [
        half_units(task, "size", ""),
        *(_grown(task, f"{kind} pseudo-layers", rewrite) for kind, rewrite in _pseudo_layers().items()),
        _grown(task, "silent copies of 22 units", SilentUnits(_UNITS)),
        _grown(task, "new blocks of 22 units", NewUnits(_UNITS)),
        _grown(task, "widen by 24 units", Widen(24)),
        _grown(task, "widen by 12 pairs", Widen(24, "pairs")),
    ]


def operators(task: Task) -> list[Arm]:
    """Return what grows by each operator, from other starts too, and what does not grow."""
    cost = _cost(task)
    return [
        *growing(task),
        _arm("half, not grown", _HALF, round(cost / 10_410 / 2)),
        _arm("grown by 22 units, from scratch", _thin_pairs(), round(cost / 16_514 / 2)),
        full_width(task)[0],
        deep_from_scratch(task),
        _grown(task, "gated pseudo-layers along eigenvectors", AlongEigenvectors("gated", 23)),
        _grown(task, "serial pseudo-layers, a Newton step", NewtonStep(PseudoLayers("serial", 16))),
        _grown(task, "silent copies of 22 units, a Newton step", NewtonStep(SilentUnits(_UNITS))),
        *(
            _arm(f"{kind} pseudo-layers from the first step", _HALF, round(cost / 16_700 / 2), [(1, rewrite)])
            for kind, rewrite in _pseudo_layers().items()
        ),
    ]


def _pseudo_layers() -> dict[str, Rewrite]:
    rows = {"serial": 16, "branch": 24, "gated": 23}
    return {kind: PseudoLayers(kind, count) for kind, count in rows.items()}


def full_width(task: Task) -> list[Arm]:
    """Return the full network of four blocks, and what grows back to its width, at equal cost."""
    full = depth(Shape(hidden=64), 4)
    return [
        _arm("uniform 1.0", full, round(_cost(task) / 18_730 / 2)),
        _grown(task, "widen to full width", Widen(32), 18_730),
        _grown(task, "widen to full width by pairs", Widen(32, "pairs"), 18_730),
    ]


def at_equal_steps(arms: Sequence[Arm], baseline: Arm) -> list[Arm]:
    """Return the arms with as many steps as the baseline, in place of as much cost."""
    length = baseline.cycles[0].steps
    return [
        replace(
            arm,
            name=f"{arm.name}, at equal steps",
            cycles=baseline.cycles,
            events=tuple(replace(event, at=min(event.at, length)) for event in arm.events),
        )
        for arm in arms
        if arm.cycles != baseline.cycles
    ]


def deep_from_scratch(task: Task) -> Arm:
    """Return the deep, thin uniform network of as many parameters."""
    return _arm("scratch 7 of 31 units", depth(Shape(hidden=31), 7), round(_cost(task) / 16_483 / 2))


def _thin_pairs() -> tuple[Shape, ...]:
    """Return the architecture that half-steps of units end with."""
    return tuple(Shape(hidden=hidden) for _ in _HALF for hidden in (32, _UNITS))


def half_units(task: Task, by: str, said: str) -> Arm:
    """Return half-steps of some units in every block, chosen by their size, at random, or by a score."""
    return _grown(task, f"half-steps of 22 {said}units", HalfUnits(_UNITS, by))


def units(task: Task) -> list[Arm]:
    """Return half-steps of as many units, chosen in other ways."""
    return [
        half_units(task, "random", "random "),
        half_units(task, "size", ""),
        half_units(task, "smallest", "smallest "),
        half_units(task, "eigen", "most negative "),
        half_units(task, "half-step", "half-step-scored "),
        half_units(task, "half-step-gradient", "half-step-gradient-scored "),
        half_units(task, "half-step-hessian", "half-step-hessian-scored "),
    ]


def deep(task: Task) -> list[Arm]:
    """Return nets that begin with one block and end deep and thin, and one that is so from the start."""
    cost = _cost(task)
    thin, whole = round(cost / 24_100), round(cost / 24_320)
    early, middle = 0.2, 0.5
    return [
        deep_from_scratch(task),
        _arm(
            "half 1-2-4-7 of 31 units",
            depth(Shape(hidden=31), 1),
            thin,
            [(round(early * thin), HALF), (round(middle * thin), HALF), (thin, HalfSteps((0, 1, 2)))],
        ),
        _arm(
            "half 1-2-4 of 32 units, then 22 units",
            _HALF[:1],
            whole,
            [
                (round(early * cost / 24_320), HALF),
                (round(middle * cost / 24_320), HALF),
                (whole, HalfUnits(_UNITS)),
            ],
        ),
    ]
