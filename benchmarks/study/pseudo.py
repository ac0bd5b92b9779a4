"""Pseudo-layers at the linear maps of an MLP: the operators ``serial``, ``branch`` and ``gated`` of fxgrow, batched.

They grow the first rows of a map. Rows of a trained map are exchangeable, so the first ones are random ones. A test
holds these networks against what ``fxgrow.grow`` makes of the graph.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.operators.parallel import RADIUS
from fxgrow.primitives.activations import EvenGELU, ResidualGELU
from study.networks import Architecture, Linear, Mlp, Shape
from study.rewrites import Site
from study.state import Leaf, Leaves, State, fresh_block
from study.units import directions


@dataclass(frozen=True)
class Grown(Shape):
    """A block whose MLP has one pseudo-layer at each of its two maps, for so many of their rows."""

    kind: str = "serial"
    rows: int = 0

    def mlp(self, architecture: Architecture) -> Mlp:
        """Return the branch with its pseudo-layers."""
        return GrownMlp(architecture, self)


class Serial(nn.Module):
    """``fc2(GELU(fc1(h)))`` of what the map made, behind its activation."""

    def __init__(self, reads: int, makes: int, rows: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(makes, rows), Linear(rows, rows, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the first rows."""
        return self.fc2(F.gelu(self.fc1(x)))


class Branch(nn.Module):
    """``phi(A x)`` of what the map reads, with ``phi(u) = u + GELU(u)``."""

    def __init__(self, reads: int, makes: int, rows: int) -> None:
        super().__init__()
        self.branch, self.act = Linear(reads, rows), ResidualGELU()

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the first rows."""
        return self.act(self.branch(x))


class Gated(Branch):
    """``b phi_e(A x)`` of what the map reads, with ``phi_e(u) = GELU(u) + GELU(-u)``."""

    def __init__(self, reads: int, makes: int, rows: int) -> None:
        super().__init__(reads, makes, rows)
        self.act = EvenGELU()
        self.gate = nn.Parameter(torch.zeros(rows))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the first rows."""
        return self.gate * super().forward(x)


#: each operator, and its parameter that is zero at first
KINDS: dict[str, tuple[type[nn.Module], str]] = {
    "serial": (Serial, "fc2.weight"),
    "branch": (Branch, "branch.weight"),
    "gated": (Gated, "gate"),
}


class GrownMlp(Mlp):
    """The branch with a pseudo-layer at each of its maps."""

    def __init__(self, architecture: Architecture, shape: Grown) -> None:
        super().__init__(architecture, shape.hidden)
        build, self.behind = KINDS[shape.kind][0], shape.kind == "serial"
        self.at_fc1 = build(self.fc1.in_features, shape.hidden, shape.rows)
        self.at_out = build(shape.hidden, architecture.width, shape.rows)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last map reads, (samples, tokens, hidden)."""
        x = self.read(x)
        if self.behind:
            hidden = F.gelu(self.fc1(x))
            return _added(hidden, self.at_fc1(hidden))
        return F.gelu(_added(self.fc1(x), self.at_fc1(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the branch adds to the stream."""
        hidden = self.features(x)
        made = self.out(hidden)
        return _added(made, self.at_out(made if self.behind else hidden))


def _added(made: Tensor, more: Tensor) -> Tensor:
    """Add to the first rows."""
    return made + F.pad(more, (0, made.shape[-1] - more.shape[-1]))


@dataclass(frozen=True)
class PseudoLayers:
    """Each MLP gets a pseudo-layer at both of its maps; the function stays what it is."""

    kind: str
    rows: int

    def __call__(self, state: State, site: Site) -> State:
        """Return the grown state; what was there keeps its moments."""
        shapes = tuple(Grown(shape.heads, shape.hidden, self.kind, self.rows) for shape in state.shapes)
        blocks = tuple(
            {**block, **self._new(shape, block, index, site)}
            for index, (shape, block) in enumerate(zip(shapes, state.blocks, strict=True))
        )
        return replace(state, shapes=shapes, blocks=blocks)

    def _new(self, shape: Shape, block: Leaves, index: int, site: Site) -> Leaves:
        drawn = fresh_block(site.architecture, shape, site.seeds, f"pseudo.{site.step}.{index}")
        new = {name: leaf for name, leaf in drawn.items() if name.startswith("mlp.at_")}
        zero = KINDS[self.kind][1]
        silent = {name: Leaf.fresh(leaf.value * 0) for name, leaf in new.items() if name.endswith(zero)}
        return {**new, **silent, **(_short(new, block) if self.kind == "gated" else {})}


@dataclass(frozen=True)
class AlongEigenvectors(PseudoLayers):
    """Gated pseudo-layers whose directions are the eigenvectors of fxgrow's eigen-score, as in ``fxgrow.grow``."""

    def __call__(self, state: State, site: Site) -> State:
        """Return the grown state with those directions."""
        grown = super().__call__(state, site)
        vectors = directions(state, site, "eigen", ("mlp.fc1", "mlp.out"))
        leaves = dict(grown.leaves())
        for index in range(len(state.blocks)):
            for at, found in zip(("at_fc1", "at_out"), vectors[2 * index : 2 * index + 2], strict=True):
                name = f"blocks.{index}.mlp.{at}.branch.weight"
                length = leaves[name].value.norm(dim=2, keepdim=True)
                leaves[name] = Leaf.fresh(length * F.normalize(found[:, : self.rows].float(), dim=2))
        return grown.with_leaves(leaves)


def _short(new: Leaves, block: Leaves) -> Leaves:
    """Return random directions, ``RADIUS`` times as long as the mean row of the map that they grow."""
    found = {}
    for at, grown in (("mlp.at_fc1", "mlp.fc1"), ("mlp.at_out", "mlp.out")):
        direction = F.normalize(new[f"{at}.branch.weight"].value, dim=2)
        length = block[f"{grown}.weight"].value.norm(dim=2).mean(1)
        found[f"{at}.branch.weight"] = Leaf.fresh(RADIUS * length[:, None, None] * direction)
    return found
