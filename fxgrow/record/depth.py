"""How deep each neuron is: what the provenance of the nodes says, of a graph or of its table alike."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxgrow.record.provenance import Provenance, PseudoLayerNode, Repeat, ResidualEdge


@dataclass(frozen=True)
class Step:
    """One node, as far as depth is concerned."""

    name: str
    inputs: tuple[str, ...]  #: names of the nodes whose values it reads
    part: PseudoLayerNode | ResidualEdge | None
    repeats: tuple[Repeat, ...] = ()  #: on the sum of a half-step

    @classmethod
    def of(cls, name: str, inputs: Iterable[str], made: Provenance | None) -> "Step":
        """Return the step of a node that was made as `made` says."""
        made = made or Provenance()
        return cls(name, tuple(inputs), made.part, made.block.repeats if made.block else ())


def depths(steps: Sequence[Step], neurons: Mapping[str, int]) -> dict[str, list[int]]:
    """Return, for each site, how many pseudo-layers and half-steps deep each of its neurons is.

    Args:
        steps: The nodes of a graph, in its order.
        neurons: How many neurons each site has.
    """
    layers = _pseudo_layers(steps)
    edges: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if isinstance(step.part, ResidualEdge) and step.part.rows is not None:  # a bare residual edge adds no depth
            edges[step.part.site].append(step)
    found = {site: _follow(count, edges[site], layers) for site, count in neurons.items()}
    repeats = dict.fromkeys(repeat for step in steps for repeat in step.repeats)
    for repeat in sorted(repeats, key=lambda repeat: -repeat.copy.count(".")):  # those inside others first
        for place, row in enumerate(repeat.rows):
            found[repeat.site][row] += 1 + found[repeat.copy][place]
    return found


@dataclass
class _PseudoLayer:
    """The nodes of one pseudo-layer, those of pseudo-layers inside it included, in graph order."""

    steps: dict[str, Step]

    @property
    def reads(self) -> set[str]:
        """The values outside that its nodes read."""
        return {value for step in self.steps.values() for value in step.inputs if value not in self.steps}

    @property
    def nested(self) -> int:
        """The longest chain of pseudo-layers inside."""
        longest: dict[str, int] = {}
        for name, step in self.steps.items():
            before = max((longest.get(source, 0) for source in step.inputs), default=0)
            longest[name] = before + isinstance(step.part, ResidualEdge)
        return max(longest.values(), default=0)


def _pseudo_layers(steps: Iterable[Step]) -> dict[str, _PseudoLayer]:
    """Return the nodes of every pseudo-layer, by its module path."""
    layers: dict[str, _PseudoLayer] = defaultdict(lambda: _PseudoLayer({}))
    for step in steps:
        if step.part is None:
            continue
        # the edge that brings a pseudo-layer's output back lies inside the layers around it, but not inside itself
        parts = (step.part.site if isinstance(step.part, ResidualEdge) else step.part.path).split(".")
        for ancestor in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            layers[ancestor].steps[step.name] = step
    return dict(layers)


def _follow(neurons: int, edges: Sequence[Step], layers: Mapping[str, _PseudoLayer]) -> list[int]:
    """Follow a site's residual edges in graph order, keeping the depth of each neuron at each value on the way."""
    at: dict[str, list[int]] = {}
    deepest = [0] * neurons
    for edge in edges:
        assert isinstance(edge.part, ResidualEdge)
        before = at.setdefault(edge.inputs[0], [0] * neurons)
        layer = layers[edge.part.path]
        behind = max((max(at[value]) for value in layer.reads if value in at), default=0)
        depth, rows = behind + 1 + layer.nested, set(edge.part.rows or ())
        at[edge.name] = [max(old, depth) if row in rows else old for row, old in enumerate(before)]
        deepest = [max(pair) for pair in zip(deepest, at[edge.name], strict=True)]
    return deepest
