"""Arms of equal parameters and equal cost: which blocks grow, and which kind of branch."""

from dataclasses import replace

from study.arms import Arm, Event, depth, evenly
from study.costs import flops
from study.rewrites import HalfSteps, Rewrite, Site, Then
from study.state import initial
from study.tasks import Task
from study.units import HalfShare, HalfUnits


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


def kinds_at_equal_flops(task: Task) -> list[Arm]:
    """Return both kinds, the attention and the MLPs, at the FLOPs of the cheapest: the others see less of each batch.

    From the event on, so that all go on from the very same networks, by the same rates.
    """
    arms = kinds(task)
    cheapest = min(_grown_flops(task, arm) for arm in arms)
    return [_with_share(arm, cheapest / _grown_flops(task, arm)) for arm in arms]


def _with_share(arm: Arm, share: float) -> Arm:
    if share == 1:
        return arm
    (event,) = arm.events
    return replace(arm, name=f"{arm.name}, {share:.3f} of the batch", share=((0, 1.0), (event.at, share)))


def kinds_in_equal_time(task: Task) -> list[Arm]:
    """Return the attention and the MLPs at the FLOPs of both kinds: longer or shorter runs."""
    both, *alone = kinds(task)
    found = []
    for arm in alone:
        steps = round(arm.steps * _flops(task, both) / _flops(task, arm))
        events = tuple(replace(event, at=steps // 2) for event in arm.events)
        found.append(replace(arm, name=f"{arm.name}, at equal FLOPs", cycles=evenly(steps, 1), events=events))
    return found


def added_flops(task: Task, arm: Arm) -> int:
    """Return by how many FLOPs of a sample the one event of an arm makes its network dearer."""
    return _grown_flops(task, arm) - flops(task.architecture, arm.start)


def _flops(task: Task, arm: Arm) -> int:
    """Return the FLOPs of a sample before and behind the one event in the middle of an arm, added up."""
    return flops(task.architecture, arm.start) + _grown_flops(task, arm)


def _grown_flops(task: Task, arm: Arm) -> int:
    """Return the FLOPs of a sample behind the one event of an arm."""
    state = initial(task.architecture, arm.start, (0,))
    grown = arm.events[0].rewrite(state, Site(task.architecture, (0,), 0, task.source))
    return flops(task.architecture, grown.shapes)


def _place(task: Task, name: str, rewrite: Rewrite, cycles: int) -> Arm:
    return Arm(name, depth(task.block, 4), evenly(task.steps, cycles), (Event(task.steps // 2, rewrite),))
