"""Scores of whole blocks: fxgrow's, summed over hidden units, plain sizes, positions, and short trials."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from fxgrow.curvature import Score as FxgrowScore
from fxgrow.curvature.gain import GainScore
from study.arms import Arm
from study.networks import Block, skeleton
from study.rewrites import HalfSteps, Site, is_last
from study.running import Progress, train
from study.sources import Source
from study.state import Leaf, State
from study.tasks import Members, Task
from study.training import evaluate
from study.units import scored, size

#: scores of fxgrow by their names there: of a block, what is positive of its hidden units' priorities, added up
SUMMED = ("half-step", "eigen", "half-step-gradient", "gradient", "residual", "insertion", "paper")
TRIALS = (100, 400)  #: steps
_HELD_OUT = 2_048  #: training samples on which trials and what is left out are judged

Score = Callable[[State, Site], Tensor]


def scores(source: Source) -> dict[str, Score]:
    """Return the scores by their names: (state, site) -> (seeds, blocks); more asks for growth."""
    found: dict[str, Score] = {name: partial(_summed, name) for name in SUMMED}
    return found | {
        "gain": lambda state, site: _summed(gain_score(site), state, site),
        "size of its units": lambda state, site: torch.stack([size(block).sum(1) for block in state.blocks], 1),
        "change of the stream": change,
        "loss without it": lambda state, site: _without(state, site, source),
        "loss right after half-steps of it": lambda state, site: -_after(state, site, source),
        "first blocks first": lambda state, site: _by_position(state, -1),
        "last blocks first": lambda state, site: _by_position(state, 1),
    }


def _summed(score: str | FxgrowScore, state: State, site: Site) -> Tensor:
    return torch.stack([priority.clamp(min=0).sum(1) for priority in scored(state, site, score)], 1)


def gain_score(site: Site) -> str | FxgrowScore:
    """Return the gain; of text, with its loss at each position, by Fisher's matrix in place of Gauss and Newton's."""
    return GainScore(metric="fisher") if site.architecture.text else "gain"


def _by_position(state: State, sign: int) -> Tensor:
    seeds = next(iter(state.outer.values())).value.shape[0]
    return sign * torch.arange(float(len(state.blocks))).expand(seeds, -1)


@torch.no_grad()
def change(state: State, site: Site) -> Tensor:
    """Return how far each block moves the residual stream, relative to its length."""
    network = skeleton(site.architecture, ())
    values = {name: leaf.value for name, leaf in state.outer.items()}
    stem = {name.removeprefix("stem."): value for name, value in values.items() if name.startswith("stem.")}
    x = vmap(lambda own, position, x: functional_call(network.stem, own, (x,)) + position)(
        stem, values["position"], site.probe()[0]
    )
    found = []
    for shape, leaves in zip(state.shapes, state.blocks, strict=True):
        with torch.device("meta"):
            block = Block(site.architecture, shape)
        own = {name: leaf.value for name, leaf in leaves.items()}
        after = vmap(lambda own, x, block=block: functional_call(block, own, (x,)))(own, x)
        found.append(((after - x).norm(dim=-1) / x.norm(dim=-1)).flatten(1).mean(1))
        x = after
    return torch.stack(found, 1)


@cache
def _held_out(source: Source) -> tuple[Tensor, Tensor]:
    return source.draw(np.random.default_rng((0, 1)), _HELD_OUT)


def held_out_loss(state: State, site: Site, source: Source) -> Tensor:
    """Return the loss of each network, (seeds,), on training samples that no score sees."""
    return evaluate(skeleton(site.architecture, state.shapes), state, *_held_out(source))[0]


def _without(state: State, site: Site, source: Source) -> Tensor:
    """Return the loss of the network in which a block adds nothing to the stream, for each block."""

    def silent(chosen: int) -> State:
        leaves = {
            name: Leaf.fresh(leaf.value * 0) if name.startswith(f"blocks.{chosen}.") and is_last(name) else leaf
            for name, leaf in state.leaves().items()
        }
        return state.with_leaves(leaves)

    return torch.stack([held_out_loss(silent(index), site, source) for index in range(len(state.blocks))], 1)


def _after(state: State, site: Site, source: Source) -> Tensor:
    """Return the loss right after one block alone has become half-steps, for each block."""
    grown = [HalfSteps((index,))(state, site) for index in range(len(state.blocks))]
    return torch.stack([held_out_loss(each, site, source) for each in grown], 1)


def trials(progress: Progress, task: Task, arms: Sequence[Arm], members: Members, site: Site) -> dict[str, Tensor]:
    """Return the loss of each arm some steps behind its event, (seeds, arms), by what the trial is called."""
    source = task.source()
    losses: dict[int, list[Tensor]] = {steps: [] for steps in TRIALS}
    for arm in arms:
        state = arm.events[0].rewrite(progress.state.map(torch.Tensor.clone), site)
        tried = Progress(state, site.step)
        for steps in TRIALS:
            for reached in train(tried, site.step + steps, task, arm, members, source):
                tried = reached
            losses[steps].append(held_out_loss(tried.state, site, source))
    return {_trial(steps): torch.stack(found, 1) for steps, found in losses.items()}


def trial_names() -> set[str]:
    """Return the names of what ``trials`` measures."""
    return {_trial(steps) for steps in TRIALS}


def _trial(steps: int) -> str:
    return f"trial of {steps} steps"
