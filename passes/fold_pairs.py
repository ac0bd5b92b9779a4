"""Fold pairs: make one map of the two that the published operator adds up."""

import copy
import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion
from fxgrow.primitives.modules import add_module
from fxgrow.record.annotations import annotate
from fxgrow.record.lineage import Lineage
from fxgrow.record.provenance import part_of
from fxgrow.record.record import Growth, revise_growths


@dataclass(frozen=True)
class FoldPairs(Pass):
    """Fold the two maps of each published pseudo-layer (operator `paper`) into one (operator `branch`).

    Rewrites:
        ``phi(A+ x + A- x)`` becomes ``phi((A+ + A-) x)``: half the parameters and one matrix product in place of two.
        The map lies at ``<pseudo-layer>.branch``.

    Leaves alone:
        Pairs inside of which something grew, and every other pseudo-layer.

    Preserves:
        The function, up to rounding. Training goes on as before at *twice* the learning rate of these parameters (and
        half the weight decay, where it is multiplied by the rate), since a step on both halves moved their sum twice.
    """

    name: ClassVar[str] = "fold-pairs"
    keeps_parameters: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Fold every pair."""
        for path, pairs in _pairs(graph_module).items():
            add_module(graph_module, f"{path}.branch", _folded(graph_module, path))
            for pair in pairs:
                _fold(graph_module.graph, path, pair)
            holder = graph_module.get_submodule(path)
            del holder.plus, holder.minus
            parameters = sum(parameter.numel() for parameter in holder.parameters())
            revise_growths(graph_module, partial(_revised, path, parameters))

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return nothing: what was folded is undone with the pairs."""
        return ()

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Give the sum the moments of the halves, which have had the same gradients."""
        return {
            f"{path}.branch.{name}": Lineage((f"{path}.plus.{name}", f"{path}.minus.{name}"), _mean)
            for path in _pairs(before)
            for name, _ in before.get_submodule(f"{path}.plus").named_parameters()
        }


@dataclass(frozen=True)
class _Pair:
    """The nodes of ``A+ x + A- x`` at one call."""

    plus: fx.Node
    minus: fx.Node
    total: fx.Node


def _pairs(graph_module: fx.GraphModule) -> dict[str, list[_Pair]]:
    """Return the pairs that can be folded at each of their calls, by the path of their pseudo-layer."""
    found: dict[str, list[_Pair]] = defaultdict(list)
    calls: dict[str, int] = defaultdict(int)
    for node in graph_module.graph.find_nodes(op="call_module"):
        part = part_of(node)
        if part is not None and node.target == f"{part.path}.plus":
            calls[part.path] += 1
            pair = _pair(node, part.path)
            if pair is not None:
                found[part.path].append(pair)
    return {path: pairs for path, pairs in found.items() if len(pairs) == calls[path]}


def _pair(plus: fx.Node, path: str) -> _Pair | None:
    if len(plus.users) != 1:
        return None
    (total,) = plus.users
    if total.op != "call_function" or total.target is not operator.add or total.args[0] is not plus:
        return None
    minus = total.args[1]
    alike = (
        isinstance(minus, fx.Node)
        and minus.op == "call_module"
        and minus.target == f"{path}.minus"
        and minus.args == plus.args
        and len(minus.users) == 1
    )
    return _Pair(plus, minus, total) if alike else None  # type: ignore[arg-type]


def _folded(graph_module: fx.GraphModule, path: str) -> nn.Module:
    plus, minus = graph_module.get_submodule(f"{path}.plus"), graph_module.get_submodule(f"{path}.minus")
    folded = copy.deepcopy(plus)
    with torch.no_grad():
        for name, parameter in folded.named_parameters():
            parameter.add_(minus.get_parameter(name))
    return folded


def _fold(graph: fx.Graph, path: str, pair: _Pair) -> None:
    with graph.inserting_before(pair.total):
        node = graph.call_module(f"{path}.branch", pair.plus.args)
    node.meta = dict(pair.plus.meta)
    annotate(node, scores=None)
    pair.total.replace_all_uses_with(node)
    for erased in (pair.total, pair.minus, pair.plus):
        graph.erase_node(erased)


def _revised(path: str, parameters: int, line: Growth) -> Growth:
    return replace(line, operator="branch", parameters=parameters) if line.path == path else line


def _mean(moments: Sequence[Tensor], order: int) -> Tensor:
    return (moments[0] + moments[1]) / 2
