"""Residual steps: where a graph adds to a value what it has computed from it, ``y = x + f(x)``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

from fxgrow.graph.declared import reads_only_sizes
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import Operations, operations_of
from fxgrow.primitives.residual import add_rows

#: f(f(x)) = f(x): behind the sum such an activation leaves alone what has been through it before
_IDEMPOTENT: dict[object, str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", F.relu: "relu", torch.relu: "relu", F.relu6: "relu6"
}  # fmt: skip
_NORMS = (nn.LayerNorm, nn.RMSNorm)
#: what keeps values in the range of an activation, or passes them on
_RANGE_KEEPING = (nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_PASSING = (nn.Identity, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True)
class ResidualStep:
    """One residual step ``y = x + f(x)``, or ``y = norm(x + f(x))``, or ``y = relu(x + f(x))``."""

    entry: fx.Node  #: x
    branches: tuple[fx.Node, ...]  #: what is added to x, each computed from it; several where they run side by side
    total: fx.Node  #: the sum
    exit: fx.Node  #: y
    #: whether y is x where the branches are zero; not so behind a norm, which normalises once more
    identity_at_zero: bool


class Ancestry:
    """Which values of a graph are computed from which; who looks at the shape of a value does not compute from it."""

    def __init__(self, graph: fx.Graph) -> None:
        self._bits = {node: 1 << index for index, node in enumerate(graph.nodes)}
        self._upstream: dict[fx.Node, int] = {}
        for node in graph.nodes:
            upstream = 0
            for source in () if reads_only_sizes(node) else node.all_input_nodes:
                upstream |= self._upstream[source] | self._bits[source]
            self._upstream[node] = upstream

    def depends(self, value: fx.Node, source: fx.Node) -> bool:
        """Say whether `value` is computed from `source`."""
        return bool(self._upstream[value] & self._bits[source])

    def depends_on_any(self, value: fx.Node, sources: int) -> bool:
        """Say whether `value` is computed from one of a set of values (`mask`)."""
        return bool(self._upstream[value] & sources)

    def mask(self, *nodes: fx.Node) -> int:
        """Return a set of values as `depends_on_any` reads it."""
        return sum(self._bits[node] for node in set(nodes))


def find_steps(graph_module: fx.GraphModule, ancestry: Ancestry | None = None) -> dict[fx.Node, ResidualStep]:
    """Return the residual steps of a graph by their exits, in graph order; those inside a branch are among them."""
    ancestry, operations = ancestry or Ancestry(graph_module.graph), operations_of(graph_module)
    steps: dict[fx.Node, ResidualStep] = {}
    for node in graph_module.graph.nodes:
        step = _step(graph_module, operations, node, ancestry)
        if step is not None:
            steps[step.exit] = step
    return steps


def _step(
    graph_module: fx.GraphModule, operations: Operations, total: fx.Node, ancestry: Ancestry
) -> ResidualStep | None:
    if not is_sum(operations, total):
        return None
    reader = next(iter(total.users)) if len(total.users) == 1 else None
    if reader is not None and _part_of(operations, total, reader, ancestry):
        return None
    terms = list(_terms(operations, total, ancestry))
    found = _entry_among(graph_module, terms, ancestry)
    if found is None or len(terms) < 2:
        return None
    entry, branches = found
    if reader is not None:
        tail = _tail(graph_module, reader)
        if tail is not None and tail == _made_by(graph_module, entry):
            return ResidualStep(entry, branches, total, reader, identity_at_zero=tail[0] == "activation")
    return ResidualStep(entry, branches, total, total, identity_at_zero=True)


def is_sum(operations: Operations, node: fx.Node) -> bool:
    """Say whether `node` adds two values of one shape, or a value to some channels of another."""
    if len(node.args) < 2 or not all(isinstance(value, fx.Node) for value in node.args[:2]):
        return False
    if node.op == "call_function" and node.target is add_rows:
        return True
    first, second = node.args[:2]
    if node.kwargs or shape_of(first) != shape_of(second):  # type: ignore[arg-type]
        return False
    return node.op != "call_module" and operations[node].calls == {"add"}


def _terms(operations: Operations, total: fx.Node, ancestry: Ancestry) -> Iterator[fx.Node]:
    """Yield what a sum adds up, its parts taken apart."""
    for part in total.args[:2]:
        assert isinstance(part, fx.Node)
        if _part_of(operations, part, total, ancestry):
            yield from _terms(operations, part, ancestry)
        else:
            yield part


def _entry_among(
    graph_module: fx.GraphModule, terms: Sequence[fx.Node], ancestry: Ancestry
) -> tuple[fx.Node, tuple[fx.Node, ...]] | None:
    """Return the term that all others are computed from, or what modules passed on as it, and the others."""
    for place, term in enumerate(terms):
        others = tuple(other for index, other in enumerate(terms) if index != place)
        value = term
        while not all(ancestry.depends(other, value) for other in others):
            if value.op != "call_module" or type(graph_module.get_submodule(str(value.target))) is not nn.Identity:
                break
            value = value.all_input_nodes[0]
        else:
            return value, others
    return None


def _part_of(operations: Operations, part: fx.Node, total: fx.Node, ancestry: Ancestry) -> bool:
    """Say whether two sums are one sum of three, as ``x + f(x)`` in ``(x + f(x)) + g(x)``."""
    if not is_sum(operations, part) or not is_sum(operations, total) or len(part.users) > 1:
        return False
    others = [other for other in total.args[:2] if isinstance(other, fx.Node) and other is not part]
    return not any(ancestry.depends(other, part) or ancestry.depends(part, other) for other in others)


def _tail(graph_module: fx.GraphModule, node: fx.Node) -> tuple[str, str] | None:
    """Describe an activation or a norm that may stand behind a sum."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        if type(module) in _IDEMPOTENT:
            return "activation", _IDEMPOTENT[type(module)]
        return ("norm", f"{type(module).__name__}({module.extra_repr()})") if isinstance(module, _NORMS) else None
    if node.op == "call_function" and node.target in _IDEMPOTENT:
        return "activation", _IDEMPOTENT[node.target]
    if node.op == "call_function" and node.target in (F.layer_norm, F.rms_norm):
        return "norm", f"{node.target.__name__}{node.args[1]}"
    return None


def _made_by(graph_module: fx.GraphModule, value: fx.Node) -> tuple[str, str] | None:
    """Return the activation or norm that a value has been through, as `_tail` describes it."""
    passed: tuple[type[nn.Module], ...] = (*_RANGE_KEEPING, *_PASSING)
    while value.op == "call_module" and isinstance(graph_module.get_submodule(str(value.target)), passed):
        dropped = isinstance(graph_module.get_submodule(str(value.target)), nn.modules.dropout._DropoutNd)
        value = value.all_input_nodes[0]
        passed = _PASSING if dropped else passed
    if value.target is torch.cat and isinstance(value.args[0], Sequence):
        made = {_made_by(graph_module, part) for part in value.args[0] if isinstance(part, fx.Node)}
        tail = next(iter(made))
        return tail if len(made) == 1 and tail is not None and tail[0] == "activation" else None
    return _tail(graph_module, value)
