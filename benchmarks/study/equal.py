"""Arms of equal parameters and equal cost: which operator, which units, and which blocks."""

from collections.abc import Sequence

from study.arms import Arm, Event, depth, evenly
from study.families import HALF
from study.networks import Shape
from study.pseudo import PseudoLayers
from study.rewrites import HalfSteps, Rewrite, Then, Widen
from study.schedules import Cycle
from study.tasks import Task
from study.units import HalfShare, HalfUnits, NewUnits, SilentUnits

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


def _grown(task: Task, name: str, rewrite: Rewrite) -> Arm:
    """Begin with half of the hidden units, and grow when the second cycle begins."""
    steps = round(_cost(task) / (10_410 + 16_514))
    return _arm(name, _HALF, steps, [(steps, rewrite)])


def operators(task: Task) -> list[Arm]:
    """Return what grows by other operators, and what does not grow, at the baseline's parameters and cost."""
    cost = _cost(task)
    return [
        half_units(task, "size", ""),
        _grown(task, "serial pseudo-layers", PseudoLayers("serial", 16)),
        _grown(task, "branch pseudo-layers", PseudoLayers("branch", 24)),
        _grown(task, "gated pseudo-layers", PseudoLayers("gated", 23)),
        _grown(task, "silent copies of 22 units", SilentUnits(_UNITS)),
        _grown(task, "new blocks of 22 units", NewUnits(_UNITS)),
        _grown(task, "widen by 24 units", Widen(24)),
        _grown(task, "widen by 12 pairs", Widen(24, "pairs")),
        _arm("half, not grown", _HALF, round(cost / 10_410 / 2)),
        _arm("grown by 22 units, from scratch", _thin_pairs(), round(cost / 16_514 / 2)),
        _arm("uniform 1.0", depth(Shape(hidden=64), 4), round(cost / 18_730 / 2)),
        deep_from_scratch(task),
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


def even(task: Task, cycles: int = 2) -> Arm:
    """Return the baseline of places: three blocks' worth of half-steps, spread over all four."""
    heads, units = task.block.heads * 3 // 4, task.block.hidden * 3 // 4
    if heads:
        share = HalfShare(units, heads=heads)
        return _place(task, f"half-steps of {heads} random heads and {units} units in each block", share, cycles)
    return _place(task, f"half-steps of {units} random units in each block", HalfUnits(units, "random"), cycles)


def all_but_one(task: Task, cycles: int = 2) -> list[Arm]:
    """Return half-steps of three blocks of four: as many arms as there are blocks to leave out, in their order."""
    without = [tuple(i for i in range(4) if i != left) for left in range(4)]
    return [_place(task, f"blocks {', '.join(map(str, chosen))}", HalfSteps(chosen), cycles) for chosen in without]


def one_in_four(task: Task, cycles: int = 2) -> list[Arm]:
    """Return three blocks' worth of half-steps at one block alone, in the order of the blocks."""
    return [
        _place(task, f"block {i} in four", Then((HalfSteps((i,)), HalfSteps((i, i + 1)))), cycles) for i in range(4)
    ]


def kinds(task: Task) -> list[Arm]:
    """Return half-steps of both kinds of branches, of all of the attention alone, and of as much of the MLPs.

    Width 32: an attention has 4,288 parameters, 64 hidden units with their norm 4,256, two heads and 31 units 4,303.
    """
    heads = task.block.heads
    ways = {
        f"half-steps of {heads // 2} random heads and 31 units in each block": HalfShare(31, heads=heads // 2),
        "half-steps of the attention of each block": HalfShare(0, heads=heads),
        "half-steps of 64 random units in each block": HalfShare(64),
    }
    return [_place(task, name, rewrite, cycles=1) for name, rewrite in ways.items()]


def _place(task: Task, name: str, rewrite: Rewrite, cycles: int) -> Arm:
    return Arm(name, depth(task.block, 4), evenly(task.steps, cycles), (Event(task.steps // 2, rewrite),))
