"""What a score costs, in training steps of the same batch: processor time of one thread, and operations."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F
from measuring.machine import Row, row
from measuring.timing import elapsed, processor_time
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from curvature_engine.models import ALL_LINEAR, MLP_UNITS, batch, deit_small
from fxgrow.curvature import Scores, analyze
from fxgrow.curvature.eigen import splittable
from fxgrow.curvature.probe import Probe, captured_groups
from fxgrow.curvature.probe_data import read_batches
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.selection import select_sites
from fxgrow.curvature.statistics import spearman

ROUNDS = 3
ROOM = 64 << 30  # all sites in one group: the passes are made once
SITES = {"all linear sites": ALL_LINEAR, "MLP units": MLP_UNITS}
BLOCKS = 12

Job = Callable[[fx.GraphModule, torch.Tensor, torch.Tensor, tuple[str, ...]], object]


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section.

    Two networks are measured, of two blocks and of four; what a block more costs, any further one does.
    """
    torch.set_num_threads(1)
    x, y = batch(8 if quick else 32, 224)
    networks = [deit_small(quick, blocks)[0] for blocks in (2, 4)]
    for network in networks:
        analyzed(network, x[:2], y[:2], ALL_LINEAR)  # what is found out once about a graph is no part of the cost
    for name, patterns in SITES.items():
        jobs: dict[str, Job] = {"by default": analyzed, "capture alone": captured}
        for what, job in jobs.items():
            target = "at most 5" if (name, what) == ("all linear sites", "by default") else ""
            yield from in_steps(f"{name}, {what}", job, networks, x, y, patterns, target)
    yield operations(networks, x, y)
    yield from agreement(networks[0], x, y)


def in_steps(
    what: str,
    job: Job,
    networks: list[fx.GraphModule],
    x: torch.Tensor,
    y: torch.Tensor,
    patterns: tuple[str, ...],
    target: str,
) -> Iterator[Row]:
    """Yield what a job takes over what a training step takes, each at its least of some rounds in turn.

    What else runs on the machine can only add to a time, by the caches that it takes.
    """
    times = []
    for network in networks:
        pair = partial(job, network, x, y, patterns), training_step(network, x, y)
        rounds = [[elapsed(function, processor_time) for function in pair] for _ in range(ROUNDS)]
        times.append([min(taken) for taken in zip(*rounds, strict=True)])
    (short, short_step), (long, long_step) = times
    yield row(f"{what}: two blocks", f"{short / short_step:.2f} steps")
    yield row(f"{what}: each block more, in steps of a block", f"{(long - short) / (long_step - short_step):.2f} steps")
    yield row(f"{what}: all {BLOCKS} blocks, by these", f"{of_all_blocks(times):.2f} steps", target)


def of_all_blocks(costs: Sequence[Sequence[float]]) -> float:
    """Return a job's cost over a step's in all blocks, from both costs in two blocks and in four."""
    job, step = (short + (BLOCKS - 2) * (long - short) / 2 for short, long in zip(*costs, strict=True))
    return job / step


def operations(networks: list[fx.GraphModule], x: torch.Tensor, y: torch.Tensor) -> Row:
    """Return what the products of matrices take in operations, which nothing else on the machine changes."""
    counts = []
    for network in networks:
        step, found = training_step(network, x, y), []
        for job in (partial(analyzed, network, x, y, ALL_LINEAR), step):
            with Operations() as operations:
                job()
            found.append(operations.count)
        counts.append(found)
    what = f"all linear sites, by default: all {BLOCKS} blocks, in operations of matrix products"
    return row(what, f"{of_all_blocks(counts):.2f} steps", "at most 5")


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        packet = torch.ops.aten.addmm if packet is torch.ops.aten.addmm_ else packet  # one of them is registered
        if packet in flop_registry:
            self.count += flop_registry[packet](*args, **(kwargs or {}), out_val=made)
        return made


def training_step(graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes one step of AdamW; it moves the weights too little to matter."""
    optimizer = torch.optim.AdamW(graph_module.parameters(), lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(graph_module(x), y).backward()
        optimizer.step()

    step()  # moments are made in the first one
    return step


def analyzed(
    graph_module: fx.GraphModule,
    x: torch.Tensor,
    y: torch.Tensor,
    patterns: tuple[str, ...],
    **options: float | None,
) -> Scores:
    """Score some sites, with held-out values and error bars."""
    return analyze(graph_module, F.cross_entropy, [(x, y)], sites=patterns, max_memory=ROOM, **options)


def captured(graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor, patterns: tuple[str, ...]) -> None:
    """Make the passes, and read off what some sites see."""
    sites = select_sites(graph_module, patterns).growable
    read, _ = read_batches(graph_module, [(x, y)], seed=0)
    probe = Probe(graph_module, F.cross_entropy, read, sites, 1, 0, None, ROOM)
    readings, others = splittable(graph_module, sites)
    for _ in captured_groups(probe, [*readings, *(Reading.branch(sites[path]) for path in others)]):
        pass


def agreement(graph_module: fx.GraphModule, x: torch.Tensor, y: torch.Tensor) -> Iterator[Row]:
    """Yield how the rankings by default compare with those of all iterations over all positions."""
    default = analyzed(graph_module, x, y, ALL_LINEAR)
    exact = analyzed(graph_module, x, y, ALL_LINEAR, settled=None)
    for what in ("values", "held_out"):
        found = [spearman(getattr(exact[path], what), getattr(default[path], what)) or 0.0 for path in exact]
        label = f"rank correlation of {what.replace('_', '-')}, default and settled=None, least (mean) over sites"
        target = "at least 0.99" if what == "values" else ""
        yield row(label, f"{min(found):.3f} ({sum(found) / len(found):.3f})", target)
