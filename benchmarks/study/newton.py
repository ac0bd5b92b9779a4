"""A Newton step in place of zero: new weights that are silent at first go to where the data ask for them at once.

Gauss and Newton's matrix of the loss in the new weights alone, damped (Levenberg and Marquardt), solved by conjugate
gradients on one half of the probe data; the other half chooses the damping, or that the weights stay zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jvp, vjp, vmap

from study.networks import Network, skeleton
from study.rewrites import Rewrite, Site
from study.state import Leaf, State

_DAMPINGS = (0.01, 0.1, 1.0, 10.0)  #: in units of the curvature along the gradient
_ITERATIONS = 25

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class NewtonStep:
    """A rewrite that keeps the function by weights of zero, and then a Newton step of those weights."""

    rewrite: Rewrite

    def __call__(self, state: State, site: Site) -> State:
        """Return the grown state; the weights that moved start with fresh moments."""
        grown = self.rewrite(state, site)
        values = grown.values()
        names = [name for name, leaf in grown.leaves().items() if _is_silent(name, leaf)]
        network = skeleton(site.architecture, grown.shapes)
        fixed = {name: value for name, value in values.items() if name not in names}
        found = vmap(lambda *each: _solve(network, *each))(fixed, {name: values[name] for name in names}, *site.probe())
        return grown.with_leaves(grown.leaves() | {name: Leaf.fresh(value) for name, value in found.items()})


def _is_silent(name: str, leaf: Leaf) -> bool:
    return not leaf.steps and not name.endswith("bias") and not leaf.value.any()


def _solve(network: Network, fixed: Values, zero: Values, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the step of one network, or zeros."""
    flat = torch.cat([value.flatten() for value in zero.values()])

    def logits(new: Tensor, x: Tensor) -> Tensor:
        return functional_call(network, {**fixed, **_unflatten(new, zero)}, (x,)).flatten(0, -2)

    (x, held_x), (y, held_y) = x.chunk(2), y.chunk(2)
    made, pull = vjp(lambda new: logits(new, x), flat)
    p = made.softmax(-1)
    (gradient,) = pull((p - F.one_hot(y.flatten(), p.shape[-1])) / len(p))

    def curvature(direction: Tensor) -> Tensor:
        """Return J'HJ times a direction, H the Hessian of the mean cross-entropy in the logits."""
        moved = jvp(lambda new: logits(new, x), (flat,), (direction,))[1] * p
        return pull((moved - p * moved.sum(-1, keepdim=True)) / len(p))[0]

    unit = gradient / gradient.norm().clamp_min(1e-30)
    along = unit @ curvature(unit)
    steps = [flat, *(_conjugate_gradients(curvature, -gradient, damping * along) for damping in _DAMPINGS)]
    losses = torch.stack([F.cross_entropy(logits(step, held_x), held_y.flatten()) for step in steps])
    best = F.one_hot(losses.argmin(), len(steps)).to(flat)
    return _unflatten(best @ torch.stack(steps), zero)


def _unflatten(flat: Tensor, like: Values) -> dict[str, Tensor]:
    parts = flat.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape) for part, (name, value) in zip(parts, like.items(), strict=True)}


def _conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, damping: Tensor) -> Tensor:
    """Return an approximate solution d of ``product(d) + damping d = right``."""
    found, residual = torch.zeros_like(right), right
    direction, squared = right, right @ right
    for _ in range(_ITERATIONS):
        moved = product(direction) + damping * direction
        step = squared / (direction @ moved).clamp_min(1e-30)
        found, residual = found + step * direction, residual - step * moved
        before, squared = squared, residual @ residual
        direction = residual + squared / before.clamp_min(1e-30) * direction
    return found
