"""Fit the copies of halved blocks, so that a block and its copy compute what the block did."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.errors import FxgrowError, PassError, first_line
from fxgrow.execution.calling import Inputs, bind_placeholders
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.graph.arrangement import Arrangements
from fxgrow.graph.blocks import steps_between
from fxgrow.graph.branch_ends import silent_in_evaluation
from fxgrow.graph.regions import find_region
from fxgrow.graph.residual import ResidualStep
from fxgrow.graph.sites import Site, find_sites, site_input
from fxgrow.primitives.linear_map import LinearMap

#: ridge, relative to the mean second moment of the inputs
_RIDGE = 1e-3


def read_pairs(batches: Iterable[Any]) -> list[Any]:
    """Read pairs ``(inputs, target)``, once; a loader that shuffles does not move the global random state.

    Raises:
        PassError: If there is none, or a batch is no pair.
    """
    fix = "let fit= yield pairs (inputs, target)"
    with preserved_randomness():
        pairs = list(batches)
    if not pairs:
        raise PassError("it holds no batch", where="fit=", fix=f"{fix}; a generator that was read before yields none")
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            what, where = "it is not a pair (inputs, target)", f"batch {index} of fit="
            raise PassError(what, where=where, fix=f"{fix}; the targets do not matter")
    return pairs


def mean_loss(graph_module: fx.GraphModule, loss_fn: Callable[[Any, Any], Tensor], pairs: Iterable[Any]) -> float:
    """Return the mean of a loss over pairs ``(inputs, target)``, in evaluation mode; nothing of the model changes."""
    losses = []
    with preserved(graph_module), torch.no_grad():
        graph_module.eval()
        for inputs, target in pairs:
            with _refusals():
                output = Inputs.of(graph_module, inputs).call(graph_module)
            losses.append(float(loss_fn(output, target)))
    return sum(losses) / len(losses)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say of batches on which the model fails that it is they."""
    try:
        yield
    except FxgrowError:
        raise
    except Exception as error:
        what = f"the model does not run on its inputs: {first_line(error)}"
        raise PassError(what, where="fit=", fix="give batches as the model is trained on") from error


@dataclass(frozen=True)
class _End:
    """The last linear map of a branch, and what passes its value on to the sum, in order."""

    call: fx.Node
    site: Site
    way: tuple[fx.Node, ...]


@dataclass(frozen=True)
class _Pair:
    """A block of the graph before, and in the graph after the block and its copy."""

    path: str
    whole: tuple[ResidualStep, ...]
    first: tuple[ResidualStep, ...]
    second: tuple[ResidualStep, ...]
    ends: tuple[_End, ...]  #: of each branch of the copy


def fit_copies(
    before: fx.GraphModule, after: fx.GraphModule, copies: Mapping[str, str], data: Iterable[Any]
) -> dict[str, tuple[float, float]]:
    """Fit the last linear maps of the copies by ridge regression on their inputs, in place.

    Each block sees what enters it in the graph before. A branch of the copy is fitted to what its first half leaves
    over of the whole branch, and the last one to all that is left over of the block; the regression is on the change of
    the map, so that it stays a half-step where the data says nothing.

    Args:
        before: The graph before.
        after: The graph in which the blocks are halved; the weights of the copies change.
        copies: The path of each block, by that of its copy.
        data: Pairs ``(inputs, target)``, as `read_pairs` reads them, of which the inputs count.

    Returns:
        For each block the squared error of the pair, in shares of what the block adds: before and after the fit.

    Raises:
        PassError: If a branch does not end in a matrix product or a convolution without groups, or something stands
            behind its sum.
    """
    pairs = [_pair(before, after, block, copied) for copied, block in copies.items()]
    inputs = [pair[0] for pair in data]
    known = _errors(before, after, pairs, inputs)
    for index in range(max(len(pair.second) for pair in pairs)):
        _fit(before, after, [pair for pair in pairs if index < len(pair.second)], index, inputs)
    found = _errors(before, after, pairs, inputs)
    return {pair.path: (known[pair.path], found[pair.path]) for pair in pairs}


def _pair(before: fx.GraphModule, after: fx.GraphModule, block: str, copied: str) -> _Pair:
    whole, first, second = (
        steps_between(graph_module, find_region(graph_module, path))
        for graph_module, path in ((before, block), (after, block), (after, copied))
    )
    return _Pair(block, whole, first, second, tuple(_end(after, step, block) for step in second))


def _end(graph_module: fx.GraphModule, step: ResidualStep, block: str) -> _End:
    calls = {call: site for site in find_sites(graph_module).values() for call in site.calls}
    arrangements, value, way = Arrangements(graph_module), step.branches[0], list[fx.Node]()
    while arrangements.passes_on(value) or silent_in_evaluation(graph_module, value):
        way.insert(0, value)
        value = value.all_input_nodes[0]
    if len(step.branches) > 1 or value not in calls or calls[value].map.groups > 1 or step.exit is not step.total:
        what = "a residual branch does not end in a matrix product or a convolution, with the sum right behind it"
        raise PassError(what, where=block, fix="deepen it without fit")
    return _End(value, calls[value], tuple(way))


def _fit(before: fx.GraphModule, after: fx.GraphModule, pairs: list[_Pair], index: int, inputs: list[Any]) -> None:
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in inputs:
        whole, halves = _values(before, after, pairs, batch)
        for pair in pairs:
            end, site = pair.ends[index], pair.ends[index].site
            read = _samples(site.map, halves[site_input(end.call)])
            read = torch.cat((read, torch.ones_like(read[:, :1])), 1) if site.bias else read
            missing = _in_place(after, end, halves, _missing(pair, index, whole, halves))
            missing = missing.movedim(site.map.channel_dim, -1).flatten(0, -2).double()
            known = moments.get(pair.path, (torch.zeros(()), torch.zeros(())))
            moments[pair.path] = known[0].to(read) + read.T @ read, known[1].to(read) + read.T @ missing
    for pair in pairs:
        site = pair.ends[index].site
        square, product = moments[pair.path]
        if not bool(square.isfinite().all() and product.isfinite().all()):
            what = "what enters its last maps, or is left for them to do, is not finite on the batches of fit="
            raise PassError(what, where=pair.path, fix="look for NaN in the batches and in the weights")
        square = square + _RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
        change = torch.linalg.solve(square, product).T
        with torch.no_grad():
            after.get_parameter(site.weight).add_(site.map.to_weight(change[:, : site.features].contiguous()))
            if site.bias:
                after.get_parameter(site.bias).add_(change[:, -1])


def _samples(linear_map: LinearMap, value: Tensor) -> Tensor:
    """Return what one row of the map reads at each position, ``(positions, features)``: of a convolution its patches.

    A convolution with the rows of the identity has them as its channels, whatever its padding and its dilation are.
    """
    if linear_map.spatial:
        rows = torch.eye(linear_map.features, dtype=value.dtype, device=value.device)
        value = replace(linear_map, neurons=linear_map.features)(value, rows)
    return value.movedim(linear_map.channel_dim, -1).reshape(-1, linear_map.features).double()


def _missing(pair: _Pair, index: int, whole: Mapping[fx.Node, Tensor], halves: Mapping[fx.Node, Tensor]) -> Tensor:
    """Return what a branch of the copy should add to what it adds."""
    if index + 1 == len(pair.second):
        return whole[pair.whole[-1].total] - halves[pair.second[-1].total]
    own = halves[pair.first[index].branches[0]] + halves[pair.second[index].branches[0]]
    return whole[pair.whole[index].branches[0]] - own


def _in_place(after: fx.GraphModule, end: _End, values: Mapping[fx.Node, Tensor], missing: Tensor) -> Tensor:
    """Return what a branch lacks, arranged as its last map makes it: the numbers of that are counted and passed on."""
    made = values[end.call]
    counted = torch.arange(made.numel(), device=made.device).reshape(made.shape)
    places = _Evaluation(after).pass_on(counted, end, values)
    return missing.new_empty(made.numel()).index_put((places.flatten(),), missing.flatten()).reshape(made.shape)


def _errors(before: fx.GraphModule, after: fx.GraphModule, pairs: list[_Pair], inputs: list[Any]) -> dict[str, float]:
    sums = {pair.path: [0.0, 0.0] for pair in pairs}
    for batch in inputs:
        whole, halves = _values(before, after, pairs, batch)
        for pair in pairs:
            expected = whole[pair.whole[-1].total]
            sums[pair.path][0] += float((halves[pair.second[-1].total] - expected).double().square().sum())
            sums[pair.path][1] += float((expected - whole[pair.whole[0].entry]).double().square().sum())
    return {path: error / added if added else 0.0 for path, (error, added) in sums.items()}


def _values(
    before: fx.GraphModule, after: fx.GraphModule, pairs: list[_Pair], inputs: Any
) -> tuple[Mapping[fx.Node, Tensor], Mapping[fx.Node, Tensor]]:
    """Return the values of both graphs; behind each pair the one after goes on with what the one before has there."""
    with preserved(before, after), torch.no_grad():
        before.eval()
        after.eval()
        whole = _Evaluation(before).run_on(inputs, {})
        forced = {pair.second[-1].total: whole[pair.whole[-1].total] for pair in pairs}
        return whole, _Evaluation(after).run_on(inputs, forced)


class _Evaluation(fx.Interpreter):
    """Computes and keeps all values of a graph, and goes on with others in the place of some."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module

    def run_on(self, inputs: Any, forced: Mapping[fx.Node, Tensor]) -> dict[fx.Node, Any]:
        given, own = bind_placeholders(self.graph_module, inputs), dict[fx.Node, Any]()
        with _refusals():
            for node in self.graph_module.graph.nodes:
                own[node] = given[node] if node.op == "placeholder" else self.run_node(node)
                self.env[node] = forced.get(node, own[node])
        return own

    def pass_on(self, value: Tensor, end: _End, values: Mapping[fx.Node, Any]) -> Tensor:
        """Return what becomes of a value in the place of an end's; modules on the way return what they read."""
        self.env = {**values, end.call: value}
        for node in end.way:
            read = node.all_input_nodes[0]
            self.env[node] = self.env[read] if node.op == "call_module" else self.run_node(node)
        return self.env[(end.call, *end.way)[-1]]
