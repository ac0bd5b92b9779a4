"""Training the networks of many seeds in one batch: ``torch.func`` over stacked parameters, and AdamW."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from study.networks import Network
from study.state import State

BETAS = (0.9, 0.999)
EPSILON = 1e-8
DECAY = 0.01

Values = dict[str, Tensor]
Gradient = Callable[[Values, Tensor, Tensor], tuple[Values, Tensor]]


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy over samples, and over positions of text."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def cross_entropy(network: nn.Module, values: Values, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of one network, over samples and positions."""
    return mean_loss(functional_call(network, values, (x,)), y)


def gradient(network: Network, compiled: bool = False) -> Gradient:
    """Return the function that gives gradients and losses of all seeds, each on its own mini-batch."""

    def loss(values: Values, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(network, values, x, y)

    batched = vmap(grad_and_value(loss))
    return torch.compile(batched, dynamic=False) if compiled else batched


def adamw(state: State, gradients: Values, rates: Tensor) -> State:
    """Return the state after one step of AdamW, each network at its own rate, (networks,); parameters change in place.

    A parameter's own factor multiplies that rate.

    Loshchilov and Hutter, ICLR 2019. Every parameter counts its own steps, so that one that begins anew has its bias
    corrected as at the start.
    """
    leaves = state.leaves()
    values = [leaf.value for leaf in leaves.values()]
    means = [leaf.mean for leaf in leaves.values()]
    squares = [leaf.square for leaf in leaves.values()]
    found = [gradients[name] for name in leaves]
    steps = [leaf.steps + 1 for leaf in leaves.values()]
    torch._foreach_lerp_(means, found, 1 - BETAS[0])
    torch._foreach_mul_(squares, BETAS[1])
    torch._foreach_addcmul_(squares, found, found, 1 - BETAS[1])
    changes = torch._foreach_sqrt(squares)
    torch._foreach_div_(changes, [(1 - BETAS[1] ** step) ** 0.5 for step in steps])
    torch._foreach_add_(changes, EPSILON)
    torch._foreach_reciprocal_(changes)
    torch._foreach_mul_(changes, means)
    torch._foreach_div_(changes, [1 - BETAS[0] ** step for step in steps])
    torch._foreach_add_(changes, values, alpha=DECAY)
    own = {factor: -rates * factor for factor in {leaf.factor for leaf in leaves.values()}}
    torch._foreach_mul_(changes, [own[leaf.factor].view(-1, *[1] * (leaf.value.dim() - 1)) for leaf in leaves.values()])
    torch._foreach_add_(values, changes)
    stepped = {name: replace(leaf, steps=step) for (name, leaf), step in zip(leaves.items(), steps, strict=True)}
    return state.with_leaves(stepped)


def evaluate(network: Network, state: State, x: Tensor, y: Tensor, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy of each seed, (seeds,), on samples that all seeds share."""

    def measure(values: Values, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(network, values, (x,)).flatten(0, -2)
        hits = (logits.argmax(-1) == y.flatten()).float().mean()
        return F.cross_entropy(logits, y.flatten()), hits

    batched = vmap(measure, in_dims=(0, None, None))
    total = torch.zeros(2, next(iter(state.outer.values())).value.shape[0])
    with torch.no_grad():
        for part_x, part_y in zip(x.split(chunk), y.split(chunk), strict=True):
            total += torch.stack(batched(state.values(), part_x, part_y)) * len(part_x) / len(x)
    return total[0], total[1]
