"""Single networks through fxgrow's public API and torch's AdamW, as anybody would train them.

The batched engine is what makes the study affordable; this is what it is held against, growth and moments included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import fx

import fxgrow
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from study.arms import Arm
from study.networks import Network, plain
from study.pseudo import PseudoLayers
from study.rewrites import Copies, HalfSteps, Rewrite, Site, Widen
from study.running import probe, start
from study.state import Leaf, State
from study.tasks import Task, batch
from study.training import BETAS, DECAY, EPSILON, mean_loss
from study.units import HalfUnits


class NotPublicError(ValueError):
    """fxgrow has no such operator: only the study does."""


@dataclass
class Single:
    """A traced network, the optimizer that trains it, and what a rewrite may need beside them."""

    model: fx.GraphModule
    optimizer: torch.optim.AdamW
    site: Site
    state: State  #: shapes, and parameters under the names that they had before anything grew

    def values(self) -> State:
        """Return the parameters as they are now, for a network that has not grown yet.

        Raises:
            NotPublicError: It has grown: only half-steps and silent copies can follow.
        """
        now = dict(self.model.named_parameters())
        leaves = self.state.leaves()
        if set(now) != set(leaves):
            raise NotPublicError("growth of units or rows can only be the first event of an arm")
        return self.state.with_leaves({name: Leaf.fresh(now[name].detach()[None]) for name in leaves})

    def blocks(self) -> list[str]:
        """Return the paths of the blocks in the order in which they run."""
        paths = [".".join(path.split(".")[:2]) for path in fxgrow.find_sites(self.model) if path.startswith("blocks.")]
        return list(dict.fromkeys(paths))


def train(task: Task, arm: Arm, rate: float, seed: int) -> fx.GraphModule:
    """Train one network of an arm, and return it; its data and its beginning are those of the batched engine.

    Raises:
        NotPublicError: fxgrow has no such growth.
    """
    source, rates, shares = task.source(), arm.rates(), arm.shares()
    state = start(task, arm, (seed,))
    network = Network(task.architecture, state.shapes)
    network.load_state_dict({name: value[0] for name, value in state.values().items()})
    model = fxgrow.trace(plain(network), batch(source, task, (seed,), 0, 1.0)[0][0])
    optimizer = torch.optim.AdamW(model.parameters(), rate, BETAS, EPSILON, DECAY)
    events = {event.at: event for event in arm.events}
    for step in range(arm.steps):
        if step in events:
            site = Site(task.architecture, (seed,), step, probe(task, source, (seed,), step))
            model = grown(events[step].rewrite, Single(model, optimizer, site, state))
        for group in optimizer.param_groups:
            group["lr"] = rate * float(rates[step])
        x, y = (part[0] for part in batch(source, task, (seed,), step, shares[step]))
        optimizer.zero_grad()
        mean_loss(model(x), y).backward()
        optimizer.step()
    return model


def measure(task: Task, model: fx.GraphModule, chunk: int = 500) -> tuple[float, float]:
    """Return loss and accuracy on the test samples."""
    source = task.source()
    with torch.no_grad():
        logits = torch.cat([model(x) for x in source.test_x.split(chunk)])
    hits = (logits.argmax(-1) == source.test_y).float().mean()
    return float(mean_loss(logits, source.test_y)), float(hits)


@singledispatch
def grown(rewrite: Rewrite, single: Single) -> fx.GraphModule:
    """Return what fxgrow makes of the network; the optimizer goes on with it.

    Raises:
        NotPublicError: fxgrow has no such growth.
    """
    raise NotPublicError(f"fxgrow has no public operator for {rewrite}")


@grown.register
def _(rewrite: HalfSteps, single: Single) -> fx.GraphModule:
    if rewrite.moments != "fresh":
        raise NotPublicError("the halves of fxgrow.deepen begin with fresh moments")
    return _deeper(single, rewrite.blocks, "half")


@grown.register
def _(rewrite: Copies, single: Single) -> fx.GraphModule:
    if rewrite.scale or rewrite.moments != "kept":
        raise NotPublicError("the copies of fxgrow.deepen are silent, and their originals keep their moments")
    return _deeper(single, rewrite.blocks, "zero")


def _deeper(single: Single, chosen: tuple[int, ...] | None, how: str) -> fx.GraphModule:
    blocks = single.blocks()
    paths = [blocks[index] for index in (range(len(blocks)) if chosen is None else chosen)]
    return fxgrow.deepen(single.model, paths, how=how, optimizer=single.optimizer)


@grown.register
def _(rewrite: HalfUnits, single: Single) -> fx.GraphModule:
    if type(rewrite) is not HalfUnits:
        raise NotPublicError(f"fxgrow has no public operator for {rewrite}")
    orders = rewrite.orders(single.values(), single.site)
    units = {
        f"blocks.{index}.mlp.fc1": tuple(sorted(order[0, : rewrite.units].tolist()))
        for index, order in enumerate(orders)
    }
    return InsertHalfSteps(units)(single.model, single.optimizer).graph_module


@grown.register
def _(rewrite: PseudoLayers, single: Single) -> fx.GraphModule:
    drawn = rewrite(single.values(), single.site)
    paths = [f"blocks.{index}.mlp.{at}" for index in range(len(drawn.blocks)) for at in ("fc1", "out")]
    growth = InsertPseudoLayers({path: tuple(range(rewrite.rows)) for path in paths}, operator=rewrite.kind)
    model = growth(single.model, single.optimizer).graph_module
    new = {name: value for name, value in drawn.values().items() if ".at_" in name}
    return _drawn(model, {_public_name(name): value for name, value in new.items()})


def _public_name(name: str) -> str:
    """Return what fxgrow calls a parameter of a pseudo-layer of the study."""
    block, _, rest = name.partition(".at_")
    path, _, parameter = rest.partition(".")
    return f"{block}.{path}_pseudo_0.{parameter}"


@grown.register
def _(rewrite: Widen, single: Single) -> fx.GraphModule:
    if rewrite.how != "pairs":
        raise NotPublicError("fxgrow.widen adds units in pairs")
    drawn, model = rewrite(single.values(), single.site), single.model
    for index in range(len(drawn.blocks)):
        model = fxgrow.widen(model, f"blocks.{index}.mlp.fc1", by=rewrite.hidden, optimizer=single.optimizer)
    return _drawn(model, drawn.values())


def _drawn(model: fx.GraphModule, values: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """Give new parameters the random numbers of the study in place of fxgrow's: all the rest is fxgrow's."""
    model.load_state_dict({name: value[0] for name, value in values.items()}, strict=False)
    return model
