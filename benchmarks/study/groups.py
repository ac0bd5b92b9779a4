"""What is compared with what: groups of arms, each with its baseline, in the order in which they run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from study import equal, placing
from study.arms import Arm
from study.families import (
    EARLY,
    FULL,
    MIDDLE,
    begun_anew,
    changed_in_the_middle,
    core,
    core_held,
    grown,
    grown_held,
    moments,
    operators,
    raised_in_the_middle,
    schedules,
    scratch,
    scratch_held,
    silent,
    stacking,
    stages,
    uniform,
)
from study.tasks import TASKS, Task, fresh_seeds


@dataclass(frozen=True)
class Group:
    """Arms that are compared with one baseline.

    Attributes:
        baseline: what the others are compared with; it runs with them.
        after: so many fresh seeds are passed over, since something was chosen on them.
        fresh: on how many fresh seeds they run at their tuned rates; 0: over the grid of rates, on the tuning seeds.
        rate_of: an arm whose tuned rate all take, for arms that differ only in what they choose; else each has its own.
        places: the arms are places of growth, "blocks" or "kinds", and the page says what the best of them would gain.
        per: what growth costs as much of at all places, "parameter" or "FLOP": a score chooses by what it says of one.
    """

    title: str
    task: Task
    baseline: Arm
    arms: tuple[Arm, ...]
    fresh: int = 0
    rate_of: Arm | None = None
    places: str = ""
    per: str = "parameter"
    after: int = 0

    @property
    def members(self) -> tuple[Arm, ...]:
        """The baseline and what is compared with it."""
        return (self.baseline, *self.arms)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The fresh seeds."""
        return fresh_seeds(self.fresh, self.after)

    def on(self, fresh: int) -> "Group":
        """Return the same comparison on fresh seeds."""
        return replace(self, fresh=fresh)


#: tasks on which two cosine cycles, the second with twice the peak, are better for everybody
_CYCLES = {"mnist1d-mlp": 2, "mnist1d-transformer": 2, "mnist1d-convnet": 2}

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


def _with(word: str, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms of one kind, by the beginning of their names."""
    return tuple(arm for arm in arms if arm.name.startswith(word))


@dataclass(frozen=True)
class Frontier:
    """Arms of one kind at several costs: where do they reach the loss of the baseline?"""

    title: str
    task: Task
    baseline: Arm
    arms: tuple[Arm, ...]
    fresh: int
    said: str = ""  #: in what the networks of this frontier and of its baseline differ from the others of the task


def _frontiers(task: Task, arms: Sequence[Arm], fresh: int, said: str = "") -> tuple[Frontier, ...]:
    """Return grown networks against the first arm, from scratch for all steps, and shorter runs from scratch."""
    grown, plain = (_with(word, arms) for word in ("half", "scratch"))
    return (
        Frontier("1-2-4-8 by half-steps", task, arms[0], grown, fresh, said),
        Frontier("8 blocks from scratch", task, arms[0], plain, fresh, said),
    )


def _grown_twice(task: Task) -> list[Arm]:
    """Return half-steps for all steps and for 0.7 of them: the shortest frontier."""
    return [grown(task, FULL, MIDDLE, scale, _CYCLES.get(task.name, 1)) for scale in (1.0, 0.7)]


#: one longer run, so that where the baseline is reached lies between two arms
_MLP_CORE = core(_MLP, 2, scales=(1.25, 1.0, 0.7, 0.5))
_WARPED_CORE = core(_WARPED, scales=(1.25, 1.0, 0.7, 0.5))
_TEXT_CORE = core(_TEXT, scales=(1.0, 0.8, 0.6))
_LONG, _PLAIN, _SHORT = TASKS["text-long"], TASKS["digits"], TASKS["text-short"]
_CONVOLVED = TASKS["warped-digits-convolved"]
_CONVOLVED_CORE = [scratch(_CONVOLVED, 8), *_grown_twice(_CONVOLVED)]
_SMALL = TASKS["small-digits"]
_SHORT_CORE = [scratch(_SHORT, 8), *(grown(_SHORT, FULL, MIDDLE, scale) for scale in (1.0, 0.7))]
_LONG_CORE = [
    scratch(_LONG, 8),
    *(grown(_LONG, FULL, EARLY, scale) for scale in (1.0, 0.75, 0.55)),
    scratch(_LONG, 8, 0.55),
]
_CONVNET, _TRANSFORMER = TASKS["mnist1d-convnet"], TASKS["mnist1d-transformer"]
_OTHERS = (
    (_CONVNET, core(_CONVNET, cycles=2)),
    (_TRANSFORMER, [scratch(_TRANSFORMER, 8, cycles=2), *_grown_twice(_TRANSFORMER), scratch(_TRANSFORMER, 8, 0.7, 2)]),
)

#: the same with blocks that add nothing at first, which is better for networks from scratch too: the stronger baseline
_SILENT = [
    (task, [silent(arm) for arm in arms], fresh)
    for task, arms, fresh in (
        (_TEXT, [*core(_TEXT, scales=(1.25, 1.0, 0.8)), scratch(_TEXT, 8, 0.6)], 4),
        (_MLP, _MLP_CORE, 18),
    )
]

#: rates that are held at their peak: better for runs that are short
_MLP_HELD = core_held(_MLP, scales=(1.25, 1.0, 0.7))

#: from scratch and grown, by the best schedules without such changes: the first is the best for networks from scratch
_CHANGED = {
    _MLP: [
        scratch_held(_MLP, 1.0),
        grown_held(_MLP, MIDDLE, 1.0),
        scratch(_MLP, 8, cycles=2),
        grown(_MLP, FULL, MIDDLE, cycles=2),
    ],
    _TEXT: [silent(arm) for arm in (scratch(_TEXT, 8), grown(_TEXT, FULL, MIDDLE))],
    _WARPED: [scratch(_WARPED, 8), grown(_WARPED, FULL, MIDDLE)],
}

#: what of these was best on the tuning seeds, for networks from scratch and for those that grow: shorter and longer
_CHANGED_CORE = (
    (
        _MLP,
        [begun_anew(arm, 4.0 if arm.name.startswith("scratch") else 2.0) for arm in _MLP_HELD],
        18,
        ", rate held, blocks at another in the middle",
    ),
    (
        _TEXT,
        [begun_anew(silent(arm), 2.0) for arm in core(_TEXT, scales=(1.25, 1.0, 0.8))],
        4,
        ", last maps zero, blocks at twice the rate in the middle",
    ),
    (
        _WARPED,
        [raised_in_the_middle(arm, 2.0) for arm in core(_WARPED, scales=(1.25, 1.0, 0.7))],
        3,
        ", rate doubled in the middle",
    ),
)

FRONTIERS: tuple[Frontier, ...] = (
    *_frontiers(_MLP, _MLP_CORE, 18),
    *_frontiers(_SHORT, _SHORT_CORE, 6),
    *_frontiers(_TEXT, _TEXT_CORE, 4),
    *_frontiers(_WARPED, _WARPED_CORE, 3),
    *(frontier for task, arms in _OTHERS for frontier in _frontiers(task, arms, 12)),
    *_frontiers(_LONG, _LONG_CORE, 3),
    *_frontiers(_CONVOLVED, _CONVOLVED_CORE, 3),
    *(frontier for task, arms, fresh in _SILENT for frontier in _frontiers(task, arms, fresh, ", last maps zero")),
    *_frontiers(_MLP, _MLP_HELD, 18, ", rate held"),
    *(frontier for core in _CHANGED_CORE for frontier in _frontiers(*core)),
)


def _silent(task: Task, arms: Sequence[Arm], fresh: int) -> Group:
    plain = GATES[task.name][1]
    return _group("Cost, last maps zero at first", task, [plain, *arms[1:]], arms[0]).on(fresh)


_UNIFORM = equal.uniform(_MLP)
_OPERATORS = _group("Operators, at equal parameters and equal cost", _MLP, equal.operators(_MLP), _UNIFORM)
_STEPS = _group(
    "Operators, at equal parameters and equal steps",
    _MLP,
    equal.at_equal_steps(equal.growing(_MLP), _UNIFORM),
    _UNIFORM,
)
_WIDTH = _group(
    "Growing back to full width, at equal cost", _MLP, equal.full_width(_MLP)[1:], equal.full_width(_MLP)[0]
)
_UNITS_ARMS = equal.units(_MLP)
_UNITS = replace(
    _group("Which units, at equal parameters and equal cost", _MLP, _UNITS_ARMS[1:], _UNITS_ARMS[0]),
    rate_of=_UNITS_ARMS[0],
)


def _moments(task: Task, scale: float, fresh: int) -> tuple[Group, Group]:
    """Return the same stages at other moments of a run, with rates of their own, tuned and on fresh seeds."""
    cycles = _CYCLES.get(task.name, 1)
    arms = moments(task, scale, cycles)
    group = _group("Moments", task, [*arms, scratch(task, 8, scale, cycles)], arms[0])
    return group, group.on(fresh)


def _places(task: Task, fresh: int, after: int = 0, alone: bool = False) -> tuple[Group, Group]:
    """Return half-steps of three blocks of four against as much everywhere, all at the rate that is best for that."""
    cycles = _CYCLES.get(task.name, 1)
    even = placing.even(task, cycles)
    arms = placing.all_but_one(task, cycles) + (placing.one_in_four(task, cycles) if alone else [])
    group = _group("Which blocks, at equal parameters and equal cost", task, arms, even)
    return _group("Rate of the places", task, (), even), replace(
        group, rate_of=even, places="blocks", fresh=fresh, after=after
    )


def _kinds(task: Task, fresh: int) -> tuple[Group, ...]:
    """Return half-steps of one kind of branch in all blocks against as much of both, all at the rate best for that."""
    both, *alone = placing.kinds(task)
    group = _group("Which kind of branch, at equal parameters and equal cost", task, alone, both)
    cheaper, *arms = placing.kinds_at_equal_flops(task)
    by_flops = _group("Which kind of branch, at equal parameters and equal FLOPs", task, arms, cheaper)
    return (
        _group("Rate of the kinds", task, (), both),
        replace(group, rate_of=both, places="kinds", fresh=fresh),
        replace(by_flops, rate_of=both, places="kinds", per="FLOP", fresh=fresh),
    )


def _kinds_in_equal_time(task: Task, fresh: int) -> Group:
    """Return the same at equal FLOPs by the length of the run, where nothing but the seed is shared."""
    both = placing.kinds(task)[0]
    arms = placing.kinds_in_equal_time(task)
    group = _group("Which kind of branch, in runs of equal FLOPs", task, arms, both)
    return replace(group, rate_of=both, fresh=fresh)


def _stacking(task: Task, fresh: int) -> tuple[Group, Group]:
    """Return whole blocks added in other ways at the same moments and the same cost, tuned and on fresh seeds."""
    arms = stacking(task, 0.7, _CYCLES.get(task.name, 1))
    group = _group("Whole blocks by other operators", task, arms[1:], arms[0])
    return group, group.on(fresh)


#: tasks on which scores are held against what came out, and on how many fresh seeds; on the first 12 of MNIST-1D it was
#: seen which scores lead there, so that they prove nothing of them
PLACED = {"mnist1d-mlp": 24, "text": 6, "warped-digits": 6}
_SEEN = 12


def _with_attention(task: Task) -> tuple[Group, ...]:
    """Return operators and units, tuned and on fresh seeds."""
    baseline, units = equal.uniform(task), equal.half_units(task, "random", "random ")
    operators = _group("Operators, at equal parameters and equal cost", task, equal.with_attention(task), baseline)
    against = _against_default(task, 6)
    chosen = [equal.half_units(task, *by) for by in (("size", ""), ("eigen", "most negative "))]
    which = _group("Which units, at equal parameters and equal cost", task, chosen, units)
    tuned = _group("Rate of the units", task, (), units)
    return operators, operators.on(6), against, tuned, replace(which, rate_of=units, fresh=6)


def _against_default(task: Task, fresh: int) -> Group:
    """Return what grows, against the default of ``fxgrow.grow``; arms of one rate go on from the very same networks."""
    arms = equal.growing(task)
    (default,) = [arm for arm in arms if arm.name == "serial pseudo-layers"]
    return _group("Operators, against serial pseudo-layers", task, arms, default).on(fresh)


_FEWER = (0.25, 0.5, 2.0, 4.0)
_OWN_RATES = {
    _MLP: {
        "uniform": (2.0, 4.0),
        "blocks": (2.0, 4.0),
        "half-steps": (0.5, 2.0, 4.0, 8.0),
        **dict.fromkeys(("silent", "serial", "gated"), _FEWER),
    },
    _WARPED: {"uniform": (2.0,), "half-steps": (2.0,), "silent": (0.5,)},
}
#: for each operator the best of them on the tuning seeds, the uniform network first
_OWN_RATES_CHOSEN = {
    _MLP: {
        "uniform": (2.0,),
        "blocks": (2.0, 4.0),
        "half-steps": (2.0, 4.0),
        "silent": (0.5,),
        "serial": (0.25,),
        "gated": (0.25,),
    },
    _WARPED: {"uniform": (2.0,), "half-steps": (2.0,)},
}


def _own_rates(task: Task, factors: Mapping[str, Sequence[float]]) -> Group:
    """Return newcomers at rates of their own, some factors of each operator."""
    arms = equal.own_rates(task, factors)
    return _group("Newcomers at a rate of their own", task, arms, equal.uniform(task))


def _own_rates_chosen(task: Task, fresh: int) -> Group:
    """Return the best of them, against the best uniform network whose rate is changed at that moment too."""
    arms = [equal.uniform(task), *equal.own_rates(task, _OWN_RATES_CHOSEN[task])]
    changed = [arm for arm in arms if arm.name.startswith("uniform")][-1]
    return _group("Newcomers at the best rate of their own", task, arms, changed).on(fresh)


GROUPS: tuple[Group, ...] = (
    _group("Cost", _MLP, _MLP_CORE),
    _OPERATORS,
    _group("Cost", _SHORT, _SHORT_CORE),
    _group("Cost", _SHORT, _SHORT_CORE).on(6),
    _group("Cost", _TEXT, _TEXT_CORE),
    _group("Cost", _MLP, _MLP_CORE).on(18),
    _OPERATORS.on(12),
    _against_default(_MLP, 12),
    _UNITS.on(18),
    *_places(_MLP, PLACED["mnist1d-mlp"], after=_SEEN, alone=True),
    _group("Cost", _TEXT, _TEXT_CORE).on(4),
    _group("Begun with one block, at equal parameters and equal cost", _MLP, equal.deep(_MLP), _UNIFORM),
    _group("Begun with one block, at equal parameters and equal cost", _MLP, equal.deep(_MLP), _UNIFORM).on(12),
    _group("Stages", _MLP, stages(_MLP, cycles=2)),
    _group("Uniform networks", _MLP, uniform(_MLP, cycles=2)),
    _group("Schedules", _MLP, schedules(_MLP, cycles=2)),
    _group("Stages", _TEXT, stages(_TEXT)),
    _group("Schedules", _TEXT, schedules(_TEXT)),
    _group("Cost", _WARPED, _WARPED_CORE),
    _group("Cost", _WARPED, _WARPED_CORE).on(3),
    _group("Stages", _WARPED, stages(_WARPED)),
    _group("Last maps zero at first", _WARPED, [silent(GATES[_WARPED.name][1])]),
    _group("Operators", _MLP, operators(_MLP, cycles=2)),
    _group("Uniform networks", _TEXT, uniform(_TEXT)),
    _group("Operators", _TEXT, operators(_TEXT)),
    *(_group("Cost", task, arms).on(fresh) for task, arms in _OTHERS for fresh in (0, 12)),
    *(_group("Cost", _LONG, _LONG_CORE).on(fresh) for fresh in (0, 3)),
    *(_group("Cost", _PLAIN, core(_PLAIN)).on(fresh) for fresh in (0, 3)),
    *(_group("Cost", _SMALL, core(_SMALL, scales=(1.0,))).on(fresh) for fresh in (0, 3)),
    *(group for task in (_TEXT, _WARPED) for group in _places(task, PLACED[task.name], alone=True)),
    *(group for task in (_TEXT, _WARPED) for group in _kinds(task, PLACED[task.name])),
    _kinds_in_equal_time(_WARPED, PLACED[_WARPED.name]),
    *_stacking(_MLP, 12),
    *_with_attention(_WARPED),
    *(_own_rates(task, factors) for task, factors in _OWN_RATES.items()),
    _group(
        "Begun with one block, against a rate that is changed", _MLP, equal.deep(_MLP), begun_anew(_UNIFORM, 4.0)
    ).on(12),
    *(_own_rates_chosen(task, fresh) for task, fresh in ((_MLP, 12), (_WARPED, 6))),
    *(_group("Cost", _CONVOLVED, _CONVOLVED_CORE).on(fresh) for fresh in (0, 3)),
    *(group for scale in (0.5, 1.0) for group in _moments(_MLP, scale, 12)),
    *(_group("Cost, rates held", _MLP, [GATES[_MLP.name][1], *_MLP_HELD[1:]], _MLP_HELD[0]).on(n) for n in (0, 18)),
    *(group.on(fresh) for group in (_WIDTH, _STEPS) for fresh in (0, 12)),
    *(_silent(task, arms, fresh) for task, arms, confirming in _SILENT for fresh in (0, confirming)),
    *(
        _group("Rates that are changed in the middle", task, changed_in_the_middle(arms)[1:], arms[0])
        for task, arms in _CHANGED.items()
    ),
    *(
        _group(f"Cost{said}", task, [_CHANGED[task][0], *arms[1:]], arms[0]).on(fresh)
        for task, arms, confirming, said in _CHANGED_CORE
        for fresh in (0, confirming)
    ),
)
