"""One arm with the networks of some seeds, from the first step or from the last snapshot, to its records."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch

from study.arms import Arm, Event
from study.costs import flops
from study.networks import Architecture, Shape, skeleton
from study.rewrites import Site, is_last
from study.snapshots import Snapshots
from study.sources import Source
from study.state import Leaf, State, initial
from study.tasks import Members, Task, batch
from study.training import Gradient, adamw, evaluate, gradient

_KEEP_EVERY = 100.0  #: seconds between snapshots of a run that goes on
_PROBE = 512  #: samples that a rewrite may look at


@dataclass
class Progress:
    """What a run has done so far; it is kept in snapshots with the state."""

    state: State
    step: int = 0
    cost: float = 0.0  #: parameters x steps x share of the mini-batch
    flops: float = 0.0  #: of all forward and backward passes, for one seed
    seconds: float = 0.0  #: processor time, for all seeds
    jumps: tuple[dict[str, object], ...] = ()  #: test losses before and after each event, by seed


def run(
    task: Task,
    arm: Arm,
    members: Members,
    snapshots: Snapshots,
    report: Callable[[int], None] = lambda step: None,
) -> list[dict[str, object]]:
    """Train, and return one record for each network: what came out and what it took."""
    seeds = tuple(seed for _, seed in members)
    source = task.source()
    progress = snapshots.latest(task, arm, members) or Progress(start(task, arm, seeds))
    for until, event in _parts(arm, progress.step):
        if event is not None:
            progress = _grow(progress, event, task, source, seeds)
        for reached in train(progress, until, task, arm, members, source, report):
            snapshots.save(reached, task, arm, members)
            progress = reached
    return _records(progress, task, source, members)


def reach(task: Task, arm: Arm, members: Members, step: int, snapshots: Snapshots) -> Progress:
    """Return what a run has right before a step, where none of its events is behind it yet."""
    progress = snapshots.latest(task, arm, members, step) or Progress(start(task, arm, tuple(s for _, s in members)))
    for reached in train(progress, step, task, arm, members, task.source()):
        snapshots.save(reached, task, arm, members)
        progress = reached
    return progress


def start(task: Task, arm: Arm, seeds: tuple[int, ...]) -> State:
    """Return the networks of an arm before the first step."""
    state = initial(task.architecture, arm.start, seeds)
    if not arm.zero:
        return state
    zeroed = {
        name: Leaf.fresh(leaf.value * 0) if name.startswith("blocks.") and is_last(name) else leaf
        for name, leaf in state.leaves().items()
    }
    return state.with_leaves(zeroed)


def _parts(arm: Arm, step: int) -> Iterator[tuple[int, Event | None]]:
    """Yield what is left of a run: until which step to train, and what grows before. Snapshots lie before events."""
    events = [event for event in arm.events if event.at >= step]
    if not events or events[0].at > step:
        yield (events[0].at if events else arm.steps), None
    for index, event in enumerate(events):
        yield (events[index + 1].at if index + 1 < len(events) else arm.steps), event


def train(
    progress: Progress,
    until: int,
    task: Task,
    arm: Arm,
    members: Members,
    source: Source,
    report: Callable[[int], None] = lambda step: None,
) -> Iterator[Progress]:
    """Train to a step; yield the progress where it is worth keeping: from time to time, and at the end."""
    state = progress.state
    gradients = _gradient(task.architecture, state.shapes, task.compiled)
    seeds, own = tuple(seed for _, seed in members), torch.tensor([rate for rate, _ in members])
    rates, shares = arm.rates(), arm.shares()
    passes = flops(task.architecture, state.shapes) * task.batch
    kept, begun = time.monotonic(), time.process_time()
    for step in range(progress.step, until):
        x, y = batch(source, task, seeds, step, shares[step])
        found, _ = gradients(state.values(), x, y)
        state = adamw(state, found, own * float(rates[step]))
        report(step + 1)
        last = step + 1 == until
        if last or time.monotonic() - kept > _KEEP_EVERY:
            done = shares[progress.step : step + 1].sum()
            spent = time.process_time() - begun
            progress = replace(
                progress,
                state=state,
                step=step + 1,
                cost=progress.cost + done * state.parameters(),
                flops=progress.flops + done * passes,
                seconds=progress.seconds + spent,
            )
            kept, begun = time.monotonic(), time.process_time()
            yield progress


@cache
def _gradient(architecture: Architecture, shapes: tuple[Shape, ...], compiled: bool) -> Gradient:
    """Return the gradient of such networks, made and compiled once in a process."""
    return gradient(skeleton(architecture, shapes), compiled)


def _grow(progress: Progress, event: Event, task: Task, source: Source, seeds: tuple[int, ...]) -> Progress:
    """Apply an event, and note the test losses on both sides of it."""
    before = _test(progress.state, task, source)[0]
    with torch.no_grad():
        site = Site(task.architecture, seeds, event.at, probe(task, source, seeds, event.at))
        state = event.rewrite(progress.state, site)
    after = _test(state, task, source)[0]
    jump = {"step": event.at, "before": before.tolist(), "after": after.tolist(), "parameters": state.parameters()}
    return replace(progress, state=state, jumps=(*progress.jumps, jump))


def probe(
    task: Task, source: Source, seeds: tuple[int, ...], step: int, size: int = _PROBE
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Return what draws training data for all seeds, which no step has seen as a batch."""
    return lambda: batch(source, replace(task, batch=size), seeds, -step, 1.0)


def _test(state: State, task: Task, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    return evaluate(skeleton(task.architecture, state.shapes), state, source.test_x, source.test_y)


def _records(progress: Progress, task: Task, source: Source, members: Members) -> list[dict[str, object]]:
    loss, accuracy = _test(progress.state, task, source)
    common = {
        "steps": progress.step,
        "parameters": progress.state.parameters(),
        "cost": progress.cost,
        "flops": progress.flops,
        "seconds": round(progress.seconds / len(members), 2),
    }
    return [
        {
            "rate": rate,
            "seed": seed,
            "loss": loss[i].item(),
            "accuracy": accuracy[i].item(),
            **common,
            "jumps": [{k: v[i] if isinstance(v, list) else v for k, v in jump.items()} for jump in progress.jumps],
        }
        for i, (rate, seed) in enumerate(members)
    ]
