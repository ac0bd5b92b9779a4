"""Arms of equal parameters and equal cost: which operator, and which units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from study.arms import Arm, Event, depth
from study.families import HALF, begun_anew, raised_in_the_middle
from study.networks import Shape
from study.newton import NewtonStep
from study.pseudo import AlongEigenvectors, PseudoLayers
from study.rewrites import AtOwnRate, HalfSteps, Rewrite, Widen
from study.schedules import Cycle
from study.tasks import Task
from study.units import HalfShare, HalfUnits, NewUnits, SilentUnits


@dataclass(frozen=True)
class Uniform:
    """Four equal blocks, and how many parameters the network has."""

    block: Shape
    parameters: int


@dataclass(frozen=True)
class Sizes:
    """At which sizes networks of four blocks are equal: half of the hidden units, grown to 0.9 of the full parameters.

    Attributes:
        half: from which the arms grow.
        nine_tenths: has 0.9 of the full network's parameters.
        grown: parameters of what grows by thin blocks, and within 1 % of what grows in other ways.
        units: hidden units of a thin block behind each of the four.
        more: hidden units by which each block is widened.
        rows: of the pseudo-layers at both maps of each MLP, by their kind.
        cycles: of the learning rate, by their peaks; growth comes in the middle.
    """

    half: Uniform
    nine_tenths: Uniform
    full: Uniform
    grown: int
    units: int
    more: int
    rows: Mapping[str, int] = field(hash=False)
    cycles: tuple[float, ...] = (1.0,)

    @property
    def start(self) -> tuple[Shape, ...]:
        """Return the blocks that grow."""
        return depth(self.half.block, 4)

    @property
    def pseudo_layers(self) -> dict[str, Rewrite]:
        """Return growth by each kind of pseudo-layer."""
        return {kind: PseudoLayers(kind, count) for kind, count in self.rows.items()}


#: the parameters of MNIST-1D are without the 32 of the position, so that runs are as long as those that are recorded
SIZES = {
    "mnist1d-mlp": Sizes(
        half=Uniform(Shape(hidden=32), 10_410),
        nine_tenths=Uniform(Shape(hidden=56), 16_650),
        full=Uniform(Shape(hidden=64), 18_730),
        grown=16_514,
        units=22,
        more=24,
        rows={"serial": 16, "branch": 24, "gated": 23},
        cycles=(1.0, 2.0),
    ),
    "warped-digits": Sizes(
        half=Uniform(Shape(4, 64), 36_682),
        nine_tenths=Uniform(Shape(4, 107), 47_862),
        full=Uniform(Shape(4, 128), 53_322),
        grown=47_726,
        units=41,
        more=42,
        rows={"serial": 20, "branch": 28, "gated": 28},
    ),
}


def _cost(task: Task) -> float:
    """Return parameters x steps of the uniform network of 0.9 of the full one's parameters."""
    return task.steps * SIZES[task.name].full.parameters * 0.9


def _arm(
    task: Task, name: str, start: tuple[Shape, ...], parameters: float, events: Sequence[tuple[float, Rewrite]] = ()
) -> Arm:
    """Return an arm that has so many parameters in the mean over its steps, at the cost of all; events at shares."""
    peaks = SIZES[task.name].cycles
    steps = round(_cost(task) / parameters / len(peaks))
    cycles = tuple(Cycle(steps, peak=peak) for peak in peaks)
    whole = len(peaks) * steps
    return Arm(name, start, cycles, tuple(Event(max(1, round(at * whole)), rewrite) for at, rewrite in events))


def uniform(task: Task) -> Arm:
    """Return the baseline: the uniform network of 0.9 of the full one's parameters, from scratch."""
    sizes = SIZES[task.name].nine_tenths
    return _arm(task, "uniform 0.9", depth(sizes.block, 4), sizes.parameters)


def _grown(task: Task, name: str, rewrite: Rewrite, parameters: int | None = None) -> Arm:
    """Begin with half of the hidden units, and grow to so many parameters in the middle."""
    sizes = SIZES[task.name]
    mean = (sizes.half.parameters + (parameters or sizes.grown)) / 2
    return _arm(task, name, sizes.start, mean, [(0.5, rewrite)])


def growing(task: Task) -> list[Arm]:
    """Return what grows by each operator to the baseline's parameters, at its cost."""
    sizes = SIZES[task.name]
    return [
        half_units(task, "size", ""),
        *(_grown(task, f"{kind} pseudo-layers", rewrite) for kind, rewrite in sizes.pseudo_layers.items()),
        _grown(task, f"silent copies of {sizes.units} units", SilentUnits(sizes.units)),
        _grown(task, f"new blocks of {sizes.units} units", NewUnits(sizes.units)),
        _grown(task, f"widen by {sizes.more} units", Widen(sizes.more)),
        _grown(task, f"widen by {sizes.more // 2} pairs", Widen(sizes.more, "pairs")),
    ]


def not_grown(task: Task) -> list[Arm]:
    """Return what does not grow, at equal cost: the start, what half-steps of units end with, and the full network."""
    sizes = SIZES[task.name]
    return [
        _arm(task, "half, not grown", sizes.start, sizes.half.parameters),
        _arm(task, f"grown by {sizes.units} units, from scratch", _thin_pairs(task), sizes.grown),
        full_width(task)[0],
    ]


def along_eigenvectors(task: Task) -> Arm:
    """Return gated pseudo-layers along the eigenvectors of the eigen-score."""
    rewrite = AlongEigenvectors("gated", SIZES[task.name].rows["gated"])
    return _grown(task, "gated pseudo-layers along eigenvectors", rewrite)


def operators(task: Task) -> list[Arm]:
    """Return what grows by each operator, from other starts too, and what does not grow."""
    sizes = SIZES[task.name]
    return [
        *growing(task),
        *not_grown(task),
        deep_from_scratch(task),
        along_eigenvectors(task),
        _grown(task, "serial pseudo-layers, a Newton step", NewtonStep(sizes.pseudo_layers["serial"])),
        _grown(task, f"silent copies of {sizes.units} units, a Newton step", NewtonStep(SilentUnits(sizes.units))),
        *(
            _arm(task, f"{kind} pseudo-layers from the first step", sizes.start, 16_700, [(0.0, rewrite)])
            for kind, rewrite in sizes.pseudo_layers.items()
        ),
    ]


def with_attention(task: Task) -> list[Arm]:
    """Return the same for networks with attention, which can grow by heads too."""
    return [
        *growing(task),
        _grown(task, "half-steps of 2 heads and 8 units", HalfShare(8, heads=2)),
        along_eigenvectors(task),
        *not_grown(task),
    ]


def own_rates(task: Task, factors: Mapping[str, Sequence[float]]) -> list[Arm]:
    """Return growth whose newcomers have a learning rate of their own, for some factors of each operator.

    "uniform" does not grow: all of it has another rate from the middle on, or ("blocks") its blocks, begun anew.
    """
    sizes = SIZES[task.name]
    ways: dict[str, tuple[str, Rewrite]] = {
        "half-steps": (f"half-steps of {sizes.units} units", HalfUnits(sizes.units)),
        "silent": (f"silent copies of {sizes.units} units", SilentUnits(sizes.units)),
        "serial": ("serial pseudo-layers", sizes.pseudo_layers["serial"]),
        "gated": ("gated pseudo-layers", sizes.pseudo_layers["gated"]),
    }
    whole = uniform(task)
    found = [raised_in_the_middle(whole, factor) for factor in factors.get("uniform", ())]
    found += [begun_anew(whole, factor) for factor in factors.get("blocks", ())]
    return found + [
        _grown(task, f"{name}, at {factor:g} of the rate", AtOwnRate(rewrite, factor))
        for key, (name, rewrite) in ways.items()
        for factor in factors.get(key, ())
    ]


def full_width(task: Task) -> list[Arm]:
    """Return the full network of four blocks, and what grows back to its width, at equal cost."""
    sizes = SIZES[task.name]
    full, missing = sizes.full, sizes.full.block.hidden - sizes.half.block.hidden
    return [
        _arm(task, "uniform 1.0", depth(full.block, 4), full.parameters),
        _grown(task, "widen to full width", Widen(missing), full.parameters),
        _grown(task, "widen to full width by pairs", Widen(missing, "pairs"), full.parameters),
    ]


def at_equal_steps(arms: Sequence[Arm], baseline: Arm) -> list[Arm]:
    """Return the arms with as many steps as the baseline, in place of as much cost."""
    middle = baseline.steps // 2
    return [
        replace(
            arm,
            name=f"{arm.name}, at equal steps",
            cycles=baseline.cycles,
            events=tuple(replace(event, at=min(event.at, middle)) for event in arm.events),
        )
        for arm in arms
        if arm.cycles != baseline.cycles
    ]


def deep_from_scratch(task: Task) -> Arm:
    """Return the deep, thin uniform network of as many parameters."""
    return _arm(task, "scratch 7 of 31 units", depth(Shape(hidden=31), 7), 16_483)


def _thin_pairs(task: Task) -> tuple[Shape, ...]:
    """Return the architecture that half-steps of units end with."""
    sizes = SIZES[task.name]
    return tuple(shape for own in sizes.start for shape in (own, Shape(hidden=sizes.units)))


def half_units(task: Task, by: str, said: str) -> Arm:
    """Return half-steps of some units in every block, chosen by their size, at random, or by a score."""
    count = SIZES[task.name].units
    return _grown(task, f"half-steps of {count} {said}units", HalfUnits(count, by))


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
    sizes = SIZES[task.name]
    return [
        deep_from_scratch(task),
        _arm(
            task,
            "half 1-2-4-7 of 31 units",
            depth(Shape(hidden=31), 1),
            12_050,
            [(0.1, HALF), (0.25, HALF), (0.5, HalfSteps((0, 1, 2)))],
        ),
        _arm(
            task,
            "half 1-2-4 of 32 units, then 22 units",
            sizes.start[:1],
            12_160,
            [(0.1, HALF), (0.25, HALF), (0.5, HalfUnits(sizes.units))],
        ),
    ]
