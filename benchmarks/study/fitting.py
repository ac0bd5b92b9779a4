"""Half-steps that compute what the block did, as far as linear maps can: the copy's last maps by ridge regression."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from study.networks import Block, skeleton
from study.rewrites import HalfSteps, Site
from study.state import Leaf, Leaves, State

_RIDGE = 1e-3


@dataclass(frozen=True)
class FittedHalfSteps:
    """Half-steps; then, block by block, the copy's last maps are fitted to the stream that the old network had.

    The copy's attention is fitted to the half of the old attention's output that is missing; its MLP, which comes last,
    to everything that is still missing.
    """

    moments: str = "fresh"

    def __call__(self, state: State, site: Site) -> State:
        """Return the state with fitted copies behind each block."""
        grown = HalfSteps(moments=self.moments)(state, site)
        blocks = list(grown.blocks)
        x = _stem(state, site)
        for index, (shape, old) in enumerate(zip(state.shapes, state.blocks, strict=True)):
            block = skeleton(site.architecture, [shape]).blocks[0]
            blocks[2 * index + 1] = _fit(block, old, blocks[2 * index], blocks[2 * index + 1], x)
            x = _call(block, old, x)
        return replace(grown, blocks=tuple(blocks))


def _stem(state: State, site: Site) -> Tensor:
    """Return the stream before the first block on the probe data, (seeds, samples, tokens, width)."""
    network = skeleton(site.architecture, [])
    stem = {name.removeprefix("stem."): leaf.value for name, leaf in state.outer.items() if name.startswith("stem.")}
    return _run(network.stem, stem, site.probe()[0]) + state.outer["position"].value[:, None]


def _fit(block: Block, old: Leaves, first: Leaves, second: Leaves, x: Tensor) -> Leaves:
    """Return the copy with new last maps; ``x`` is the stream before the pair."""
    target, missing = _call(block, old, x), {}
    stream = x
    for name, branch in block.named_children():
        missing[name] = _branch(branch, name, old, stream) / 2
        stream = stream + 2 * missing[name]
    y, fitted = _call(block, first, x), dict(second)
    last = list(missing)[-1]
    for name, branch in block.named_children():
        features = _run(_Features(branch), _values(fitted, name, "branch."), y)
        wanted = target - y if name == last else missing[name]
        weight, bias = _ridge(features, wanted, fitted[f"{name}.out.weight"].value, fitted[f"{name}.out.bias"].value)
        fitted |= {f"{name}.out.weight": Leaf.fresh(weight), f"{name}.out.bias": Leaf.fresh(bias)}
        y = y + _branch(branch, name, fitted, y)
    return fitted


def _ridge(features: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least-squares map near the given one: the penalty is on the distance from it.

    Shapes: features (seeds, ..., hidden), wanted (seeds, ..., width), weight (seeds, width, hidden).
    """
    features, wanted = features.flatten(1, -2).double(), wanted.flatten(1, -2).double()
    features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    start = torch.cat([weight, bias[..., None]], dim=-1).double()
    gram = features.mT @ features
    scale = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    penalised = gram + _RIDGE * scale * torch.eye(gram.shape[-1], dtype=gram.dtype)
    change = torch.linalg.solve(penalised, features.mT @ (wanted - features @ start.mT)).mT
    fitted = (start + change).float()
    return fitted[..., :-1].contiguous(), fitted[..., -1].contiguous()


class _Features(nn.Module):
    """What the last map of a branch reads, as a module's output."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return self.branch.features(x)


def _values(leaves: Leaves, prefix: str, new: str = "") -> dict[str, Tensor]:
    return {
        new + name.removeprefix(f"{prefix}."): leaf.value
        for name, leaf in leaves.items()
        if name.startswith(f"{prefix}.")
    }


def _branch(branch: nn.Module, name: str, leaves: Leaves, x: Tensor) -> Tensor:
    return _run(branch, _values(leaves, name), x)


def _call(block: Block, leaves: Leaves, x: Tensor) -> Tensor:
    return _run(block, {name: leaf.value for name, leaf in leaves.items()}, x)


def _run(module: nn.Module, values: dict[str, Tensor], x: Tensor) -> Tensor:
    return vmap(lambda values, x: functional_call(module, values, (x,)))(values, x)
