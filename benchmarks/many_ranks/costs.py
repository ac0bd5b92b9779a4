"""What one event communicates, computes and holds on each rank, from the shapes of the sites alone.

With N samples of T positions on R ranks a rank sees P = N T / R positions. A site of m neurons with d features takes,
for I Lanczos iterations on all data and I/2 on either half (`fxgrow.curvature.cross_fit`),

    products        4 P m d (3 I / 2) + 2 P m d    FLOPs: two matrix products each, and the held-out quotients
    orthogonality   4 m d sum_i (i + 2)            FLOPs, on every rank, however many there are
    communication   2 I m d                        numbers that are reduced over the ranks

and all sites that do not fit `max_memory` together take one more pass over the probe for each group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BYTES = 4  #: of a number while solving, and of a weight


@dataclass(frozen=True)
class Linear:
    """One linear site."""

    neurons: int
    features: int

    @property
    def weights(self) -> int:
        """The number of its weights."""
        return self.neurons * self.features


@dataclass(frozen=True)
class Shape:
    """A transformer: its blocks are alike."""

    name: str
    blocks: int
    sites: tuple[Linear, ...]  #: of one block
    positions: int  #: tokens of one sample
    others: int  #: parameters that never grow: embeddings, head

    @property
    def parameters(self) -> int:
        """The number of parameters, biases and norms left out."""
        return self.blocks * sum(site.weights for site in self.sites) + self.others


def vit(name: str, blocks: int, width: int, hidden: int, positions: int) -> Shape:
    """Return a ViT: qkv, proj, fc1, fc2."""
    sites = Linear(3 * width, width), Linear(width, width), Linear(hidden, width), Linear(width, hidden)
    return Shape(name, blocks, sites, positions, 1000 * width + 768 * width)


def llama(name: str, blocks: int, width: int, hidden: int, keys: int, positions: int) -> Shape:
    """Return a Llama: q, k, v, o, gate, up, down; a vocabulary of 128,256."""
    attention = Linear(width, width), Linear(keys, width), Linear(keys, width), Linear(width, width)
    mlp = Linear(hidden, width), Linear(hidden, width), Linear(width, hidden)
    return Shape(name, blocks, (*attention, *mlp), positions, 2 * 128_256 * width)


SHAPES = (
    vit("ViT-L/16", 24, 1024, 4096, 197),
    vit("ViT-22B-like", 48, 6144, 24576, 257),
    llama("Llama-70B-like", 80, 8192, 28672, 1024, 4096),
)


@dataclass(frozen=True)
class Probe:
    """How an event measures."""

    samples: int = 512  #: on all ranks together, at least one on each
    iterations: int = 16
    max_memory: int = 40 << 30


@dataclass(frozen=True)
class Machine:
    """What a rank achieves: assumed, not measured."""

    pass_flops: float = 3e14  #: of forward and backward passes in bfloat16, each second
    solver_flops: float = 5e13  #: of the solver in float32
    bandwidth: float = 5e10  #: bytes that a rank sends, and receives, each second


@dataclass(frozen=True)
class EventCost:
    """What one event costs each rank."""

    passes: int  #: over this rank's share of the probe
    pass_flops: float
    product_flops: float
    orthogonal_flops: float
    reduced_bytes: float  #: the size of what is reduced
    gathered_bytes: float  #: whole parameters, under FSDP2
    peak_bytes: float

    def seconds(self, machine: Machine, ranks: int) -> dict[str, float]:
        """Return the seconds of each part; a ring sends what is reduced twice, less its own share."""
        ring = (ranks - 1) / ranks
        return {
            "passes": self.pass_flops / machine.pass_flops,
            "products": self.product_flops / machine.solver_flops,
            "orthogonalisation": self.orthogonal_flops / machine.solver_flops,
            "reducing products": 2 * ring * self.reduced_bytes / machine.bandwidth,
            "gathering weights": ring * self.gathered_bytes / machine.bandwidth,
        }


def product_flops(site: Linear, positions: int, iterations: int) -> int:
    """Return the FLOPs of a site's products and quotients on one rank."""
    products = iterations + (iterations + 1) // 2  # two halves, each of half of the positions
    return (4 * products + 2) * positions * site.weights


def orthogonal_flops(site: Linear, iterations: int) -> int:
    """Return the FLOPs of keeping the bases of one site orthogonal: that of all data, and those of the halves."""
    return sum(_orthogonal(site, steps) for steps in (iterations, *(((iterations + 1) // 2,) * 2)))


def _orthogonal(site: Linear, steps: int) -> int:
    return sum(4 * site.weights * (step + 1) for step in range(steps))  # seldom twice, where much cancels


def reduced_numbers(site: Linear, iterations: int) -> int:
    """Return how many numbers a site's products reduce over the ranks."""
    return site.weights * (iterations + 2 * ((iterations + 1) // 2))


def groups(sites: Sequence[Linear], positions: int, probe: Probe) -> int:
    """Return how many passes it takes until all sites were solved within the memory; a large site goes in rows."""
    count, captured, working = 0, 0, 0
    for needed, basis in _pieces(sites, positions, probe):
        if count == 0 or captured + needed + max(working, basis) > probe.max_memory:
            count, captured, working = count + 1, 0, 0
        captured, working = captured + needed, max(working, basis)
    return count


def _pieces(sites: Sequence[Linear], positions: int, probe: Probe) -> Iterator[tuple[int, int]]:
    for site in sites:
        inputs, row = BYTES * positions * site.features, BYTES * (positions + 2 * probe.iterations * site.features)
        rows = min(site.neurons, (probe.max_memory - inputs) // row)
        if rows < 1:
            raise MemoryError(f"the inputs of one site take {inputs / 1e9:,.0f} GB")  # where an analysis refuses
        for start in range(0, site.neurons, rows):
            part = min(rows, site.neurons - start)
            yield inputs + BYTES * positions * part, BYTES * 2 * probe.iterations * part * site.features


def event_cost(shape: Shape, ranks: int, probe: Probe) -> EventCost:
    """Return what one event costs each of so many ranks."""
    positions = max(1, -(-probe.samples // ranks)) * shape.positions
    sites = shape.sites * shape.blocks
    passes = groups(sites, positions, probe)
    return EventCost(
        passes=passes,
        pass_flops=passes * 6 * shape.parameters * positions,
        product_flops=sum(product_flops(site, positions, probe.iterations) for site in sites),
        orthogonal_flops=sum(orthogonal_flops(site, probe.iterations) for site in sites),
        reduced_bytes=BYTES * sum(reduced_numbers(site, probe.iterations) for site in sites),
        gathered_bytes=BYTES * shape.parameters,
        peak_bytes=BYTES * shape.parameters + probe.max_memory,
    )
