"""What stays whole: weights that a graph computes with where there is no site, and why nothing grows there."""

from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.fx as fx
from torch import nn
from torch.nn.utils import parametrize

from fxgrow.graph.operations import operations_of
from fxgrow.graph.sites import computed_from, find_sites, weight_of
from fxgrow.graph.unseen import runs_foreign_code
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.record import record_of

#: they hold a matrix and look rows of it up: nobody expects a linear map there
_TABLES = (nn.Embedding, nn.EmbeddingBag)
#: operations of torch that sum over products, by which a function is known to compute with a matrix
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "_trilinear"}


def find_wholes(graph_module: fx.GraphModule) -> Mapping[str, str]:
    """Return why nothing can grow at what holds matrices and is no site, by module path, in graph order.

    That is a module that tracing had to keep whole, or one whose weights are computed from others (pruned, normalised,
    quantised); a module of another kind than Linear and convolutions, as a GRU; and what computes its weight in its
    forward, or hands it to a function that is not traced. Tables that are looked up, as an Embedding, are not among it.
    """
    sites, found = find_sites(graph_module), dict[str, str]()
    weights = {site.weight for site in sites.values()}
    for node in graph_module.graph.nodes:
        for path, reason in _wholes_at(graph_module, node, weights):
            if path not in sites:
                found.setdefault(path, reason)
    return found


def computed_weights(module: nn.Module) -> str | None:
    """Say why the weights of a module are no plain parameters; None where they are."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by torch.jit"
    if type(module).__module__.startswith("torch.ao."):
        return "quantised"
    how = [*_parametrisations(module), *_hooks(module)]
    return f"weights are computed from others, by {', '.join(dict.fromkeys(how))}" if how else None


def _wholes_at(graph_module: fx.GraphModule, node: fx.Node, weights: set[str]) -> Iterator[tuple[str, str]]:
    if node.op == "call_module":
        path = str(node.target)
        reason = _reason(graph_module.get_submodule(path), record_of(graph_module).whole.get(path))
        if reason is not None:
            yield path, f"it stays whole: {reason}"
        return
    for source, reason in _read_by(graph_module, node):
        if source.target not in weights:
            yield str(source.target).rpartition(".")[0] or str(source.target), reason


def _read_by(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.Node, str]]:
    """Yield the matrices that a function computes with, and why it is no site of theirs."""
    for source in computed_from(weight_of(node)):
        if source is not weight_of(node) and _is_matrix(graph_module, source):
            yield source, "its weight is computed in forward"
    matrices = [source for source in node.all_input_nodes if _is_matrix(graph_module, source)]
    if not matrices or node.op != "call_function":
        return
    name = getattr(node.target, "__qualname__", str(node.target))
    if runs_foreign_code(graph_module, node):
        yield from ((source, f"its weight is given to {name}, which stays one operation") for source in matrices)
    elif operations_of(graph_module)[node].calls & _PRODUCTS:
        yield from ((source, f"its weight is read by {name}, which is no linear map") for source in matrices)


def _reason(module: nn.Module, recorded: str | None) -> str | None:
    reason = recorded or computed_weights(module)
    if reason is not None or isinstance(module, _TABLES) or all(p.dim() < 2 for p in module.parameters()):
        return reason
    return f"{type(module).__name__} is no linear map"


def _is_matrix(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "get_attr":
        return False
    value = fetch_attribute(graph_module, str(node.target))
    return isinstance(value, nn.Parameter) and value.dim() > 1


def _parametrisations(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    chains: Iterable[nn.Module] = module.parametrizations.values()  # type: ignore[operator]
    return [type(step).__name__.lstrip("_") for chain in chains for step in chain.children()]


def _hooks(module: nn.Module) -> list[str]:
    """Name the hooks by which weight_norm and spectral_norm of old, and pruning, set a weight before each call."""
    kinds = [type(hook) for hook in module._forward_pre_hooks.values()]
    return [kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn.utils.")]
