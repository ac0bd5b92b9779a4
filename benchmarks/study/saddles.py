"""The saddle question: what happens to least eigenvalues while a network trains, and when it grows.

One snapshot in the middle of training, and from there the network as it is, with half-steps, and with copies of zero
output; eigenvalues by fxgrow's public API at the snapshot and 10, 100 and 1,000 steps after it, and the loss along the
eigenvector of the whole model's least one: how far down it goes there, and how far along the gradient.
"""

import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import fxgrow
from fxgrow.curvature import spectra
from study import jsonl
from study.networks import Network, plain, skeleton
from study.records import circumstances
from study.rewrites import Copies, HalfSteps, Rewrite, Site
from study.sources import Source
from study.state import State, initial
from study.tasks import TASKS, Task, batch
from study.training import adamw, evaluate, gradient

TASK, BLOCKS, RATE, SEEDS = "mnist1d-mlp", 4, 0.005, (0, 1, 2)
BEFORE = (10, 100, 500, 1500)  #: steps at which the network is looked at; the last is the snapshot
AFTER = (0, 10, 100, 1000)  #: steps behind it
ARMS: Mapping[str, Rewrite | None] = {"not grown": None, "half-steps": HalfSteps(), "zero copies": Copies()}
#: how far each network is moved along a direction of length 1 in all of its parameters
ALONG = (-1.0, -0.6, -0.4, -0.25, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0)
_PROBE = 2_048

Data = tuple[Tensor, Tensor]


def run(path: Path) -> None:
    """Measure what is not recorded yet, and write a line for each arm, step and seed when it is known.

    Training is short, and is done again for what is left.
    """
    torch._dynamo.config.recompile_limit = 1_000
    warnings.filterwarnings("ignore", message=".torch.jit.script")
    task = TASKS[TASK]
    source = task.source()
    state, step = initial(task.architecture, (task.block,) * BLOCKS, SEEDS), 0
    for until in BEFORE:
        state, step = _train(state, task, source, step, until), until
        _record(path, state, task, source, "before", until - BEFORE[-1])
    for arm, rewrite in ARMS.items():
        grown, now = state.map(torch.Tensor.clone), step
        if rewrite is not None:
            grown = rewrite(grown, Site(task.architecture, SEEDS, step, lambda: batch(source, task, SEEDS, -1, 1.0)))
        for after in AFTER:
            grown, now = _train(grown, task, source, now, step + after), step + after
            _record(path, grown, task, source, arm, after)


def _train(state: State, task: Task, source: Source, step: int, until: int) -> State:
    """Train with a constant rate behind a short warm-up."""
    gradients = gradient(skeleton(task.architecture, state.shapes))
    for now in range(step, until):
        rates = torch.full((len(SEEDS),), RATE * min(1.0, (now + 1) / 100))
        x, y = batch(source, task, SEEDS, now, 1.0)
        state = adamw(state, gradients(state.values(), x, y)[0], rates)
    return state


def _record(path: Path, state: State, task: Task, source: Source, arm: str, step: int) -> None:
    """Write down what there is to see of each seed's network that is not recorded."""
    known = {(row["arm"], row["step"], row["seed"]) for row in jsonl.read(path)}
    losses = evaluate(skeleton(task.architecture, state.shapes), state, source.test_x, source.test_y)[0]
    for index, seed in enumerate(SEEDS):
        if (arm, step, seed) not in known:
            network = Network(task.architecture, state.shapes)
            network.load_state_dict({name: value[index] for name, value in state.values().items()})
            measured = _measure(plain(network), _probe(source), (source.test_x, source.test_y))
            row = {"arm": arm, "step": step, "seed": seed, "loss": losses[index].item(), **measured}
            jsonl.append(path, [{**row, **circumstances()}])
            print(f"{time.strftime('%H:%M:%S')} saddles: {arm}, step {step:+d}, seed {seed}", flush=True)


@cache
def _probe(source: Source) -> Data:
    return source.draw(np.random.default_rng((0, 1)), _PROBE)


def _measure(network: Network, data: Data, test: Data) -> dict[str, object]:
    """Return eigenvalues of the hidden units and of the whole model, and the loss along two directions.

    ``least`` and ``held_out`` are medians over hidden units of the least eigenvalue of the splitting matrix and of its
    held-out quotient, ``significant`` the share of units whose quotient is negative by 2 standard errors.
    ``escape_probe`` and ``escape_test`` are what the loss gains at each of `ALONG` along the eigenvector of the model's
    least eigenvalue, on the samples on which it was found and on the test samples; ``gradient_test`` is the same down
    the gradient of those samples. Positive is downhill, by the gradient.
    """
    x, y = data
    batches = [(x[part::8], y[part::8]) for part in range(8)]
    traced = fxgrow.trace(network, x[:4])
    names = [f"blocks.{index}.mlp.fc1" for index in range(len(network.blocks))]
    scores = fxgrow.analyze(traced, F.cross_entropy, batches, sites=names)
    found = [scores[name] for name in names]
    held_out = torch.cat([score.held_out for score in found if score.held_out is not None])
    whole = spectra(traced, F.cross_entropy, batches[:2], repeats=1, steps=4, products=4)["(model)"]
    seen = torch.cat([batch[0] for batch in batches[:2]]), torch.cat([batch[1] for batch in batches[:2]])
    down = -_gradient(traced, seen)
    escape = whole.escape.float() * float(torch.sign(whole.escape.float() @ down))
    return {
        "least": torch.cat([score.values for score in found]).median().item(),
        "held_out": held_out.median().item(),
        "significant": torch.cat([score.significant for score in found]).float().mean().item(),
        "model_least": whole.least,
        "model_greatest": whole.greatest,
        "escape_probe": _along(traced, escape, seen),
        "escape_test": _along(traced, escape, test),
        "gradient_test": _along(traced, down / down.norm(), test),
    }


def _gradient(model: nn.Module, data: Data) -> Tensor:
    """Return the gradient of the loss by all parameters, as one vector."""
    loss = F.cross_entropy(model(data[0]), data[1])
    return parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))


@torch.no_grad()
def _along(model: nn.Module, direction: Tensor, data: Data) -> list[float]:
    """Return by how much the loss differs along a direction, at each of `ALONG`."""
    start, losses = parameters_to_vector(model.parameters()), []
    for distance in ALONG:
        vector_to_parameters(start + distance * direction, model.parameters())
        losses.append(F.cross_entropy(model(data[0]), data[1]).item())
    vector_to_parameters(start, model.parameters())
    return [loss - losses[ALONG.index(0.0)] for loss in losses]
