"""How operations carry axes from what they read to what they make."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.execution.inputs import device_of
from fxgrow.graph.activations import Elementwise, pointwise
from fxgrow.graph.network import shape_of
from fxgrow.graph.operations import Operations
from fxgrow.primitives.residual import add_rows
from fxgrow.record.location import name_of
from fxgrow.widths.axes import Dim, dim_of, freeze, leaves, unify
from fxgrow.widths.layouts import (
    Contraction,
    Layout,
    Layouts,
    SiteRows,
    Size,
    Sizes,
    argument,
    first_layout,
    fresh,
    unknown,
)
from fxgrow.widths.shape_rules import SHAPE_RULES, reshaped

#: what keeps every number where it is
_CONVERSIONS = {"alias", "bfloat16", "contiguous", "detach", "double", "float", "half", "to", "type_as"}
_DROPOUTS = {"alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "std", "var"}
_POOLING = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
            nn.modules.pooling._AdaptiveMaxPoolNd)  # fmt: skip


def apply_rule(found: Layouts, graph_module: fx.GraphModule, node: fx.Node, operations: Operations) -> Any:
    """Return the layouts of what a node makes."""
    if not found.tensors((node.args, node.kwargs)):
        return _without_tensors(found, node)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    rule = _RULES.get(str(name).removesuffix("_") if node.op == "call_method" else str(name))
    if node.target is add_rows:
        rule = _add_rows
    if rule is not None and node.op != "call_module":
        return rule(found, node)
    function = pointwise(graph_module, node, operations)
    if function is not None:
        return _elementwise(found, node, odd=_is_odd(graph_module, node, function))
    return _module(found, graph_module, node) if node.op == "call_module" else unknown(found, node)


def _without_tensors(found: Layouts, node: fx.Node) -> Any:
    """Take one size out of several; freeze the sizes that anything else computes with."""
    known = found.values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if node.target is operator.getitem and isinstance(known, Sizes):
        index = node.args[1]
        chosen = known.dims[index] if isinstance(index, int | slice) else None
        return None if chosen is None else Sizes(chosen) if isinstance(index, slice) else Size(chosen)  # type: ignore[arg-type]
    if node.target is operator.getitem and isinstance(known, tuple):
        return known[node.args[1]]  # type: ignore[index]
    found.freeze_sizes((node.args, node.kwargs), f"{name_of(node)} computes with its size")
    return fresh(node, f"{name_of(node)} makes it")


def _module(found: Layouts, graph_module: fx.GraphModule, node: fx.Node) -> Any:
    module = graph_module.get_submodule(str(node.target))
    kind = type(module).__name__
    if len(node.all_input_nodes) != 1:
        return unknown(found, node)
    read = first_layout(found, node)
    if isinstance(module, nn.Identity):
        return read
    if isinstance(module, nn.modules.dropout._DropoutNd):
        if module.p > 0:
            found.dropouts.append((node, read.dims))
        return read
    if kind in ("DropPath", "StochasticDepth"):
        return read
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = found.channelwise.setdefault(str(node.target), read.dims[1])
        unify(known, read.dims[1], name_of(node))
        names = (f"{node.target}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
        freeze((known,), next((found.bound[name] for name in names if name in found.bound), ""))
        return replace(read, odd=False, contracted=())
    shape = shape_of(node)
    if isinstance(module, _POOLING) and shape is not None and len(shape) == len(read.dims):
        spatial = [dim_of(size, frozen="it is a spatial dimension") for size in shape[2:]]
        return read.rearranged((*read.dims[:2], *spatial))
    if isinstance(module, nn.Flatten):
        return reshaped(found, node)
    return unknown(found, node)


def _is_odd(graph_module: fx.GraphModule, node: fx.Node, function: Elementwise) -> bool:
    """Say whether a function changes its sign with that of its argument."""
    points = torch.linspace(-3.1, 3.3, 9, dtype=torch.float64, device=device_of(graph_module))
    points = points.reshape(-1, *[1] * (len(shape_of(node) or (1,)) - 1))
    with torch.no_grad():
        return torch.equal(function(-points), -function(points))


def _elementwise(found: Layouts, node: fx.Node, *, odd: bool) -> Any:
    read = found.tensors((node.args, node.kwargs))
    if len(read) != 1 or shape_of(node) is None:
        return unknown(found, node)
    return replace(read[0], odd=odd and read[0].odd)


def _dropout(found: Layouts, node: fx.Node) -> Any:
    if argument(node, 1, "p", 0.5) != 0:
        found.dropouts.append((node, first_layout(found, node).dims))
    return _elementwise(found, node, odd=True)


def _product(found: Layouts, node: fx.Node) -> Any:
    """A product or quotient: of two values whose units are matched, or of a value and a number."""
    read = found.tensors(node.args)
    if len(read) == 1:
        found.freeze_sizes(node.args, f"{name_of(node)} computes with its size")
        found.scalings.append((node, read[0].contracted or read[0].dims[-1] if read[0].dims else ()))
        return read[0]
    if len(read) != 2 or node.kwargs:
        return unknown(found, node)
    dims = _broadcast(read[0].dims, read[1].dims, f"{name_of(node)} reads it")
    return Layout(dims, read[0].origins | read[1].origins)


def _sum(found: Layouts, node: fx.Node) -> Any:
    """A sum or difference: its axes are those of a residual stream, which never changes its width.

    A sum of two functions of the same rows, as in a GELU that is written out, is one more function of them.
    """
    read = found.tensors(node.args)
    found.freeze_sizes((node.args, node.kwargs), f"{name_of(node)} computes with its size")
    if len(read) == 1:
        return replace(read[0], odd=False)
    if len(read) != 2:
        return unknown(found, node)
    dims = _broadcast(read[0].dims, read[1].dims, "it is added to something")
    if not read[0].origins or read[0].origins != read[1].origins:
        freeze(dims, "it is added to something")
    return Layout(dims, read[0].origins | read[1].origins)


def _add_rows(found: Layouts, node: fx.Node) -> Any:
    read = found.tensors(node.args)
    channel = node.args[3]
    assert isinstance(channel, int)
    freeze((read[0].dims[channel], read[1].dims[channel]), "a pseudo-layer grew on its rows")
    return Layout(read[0].dims, read[0].origins | read[1].origins)


def _broadcast(first: Sequence[Dim], second: Sequence[Dim], reason: str) -> tuple[Dim, ...]:
    longer, shorter = sorted((tuple(first), tuple(second)), key=len, reverse=True)
    padded = ((),) * (len(longer) - len(shorter)) + shorter
    return tuple(unify(one, other, reason) for one, other in zip(longer, padded, strict=True))


def _matmul(found: Layouts, node: fx.Node) -> Any:
    read = found.tensors(node.args)
    if len(read) != 2 or min(len(layout.dims) for layout in read) < 2 or node.kwargs:
        return unknown(found, node)
    left, right = read
    summed = unify(left.dims[-1], right.dims[-2], f"{name_of(node)} reads it")
    return _contract(found, node, left, right, summed, right.dims[-1], left.dims[-2])


def _contract(
    found: Layouts, node: fx.Node, left: Layout, right: Layout, summed: Dim, last: Dim, before: Dim
) -> Layout:
    batch = _broadcast(left.dims[:-2], right.dims[:-2], f"{name_of(node)} reads it")
    found.contractions.append(Contraction(node, summed, left, right))
    for origin in left.origins | right.origins:
        found.readers[origin].append(node)
    origins = frozenset(origin for origin in left.origins | right.origins if not _summed(found, origin, summed))
    return Layout((*batch, before, last), origins, contracted=summed)


def _summed(found: Layouts, origin: SiteRows, summed: Dim) -> bool:
    """Say whether the sum goes over hidden units of an origin, so that nothing behind it tells them apart."""
    return bool(set(leaves(found.rows[origin.site])) & set(leaves(summed)))


def _attention(found: Layouts, node: fx.Node) -> Any:
    """scaled_dot_product_attention: queries and keys are matched, values pass on."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    read = [found.tensors(arguments[name]) for name in names[:3]]
    if arguments.get("enable_gqa", False) is not False or any(len(layouts) != 1 for layouts in read):
        return unknown(found, node)
    (query,), (key,), (value,) = read
    reason = f"{name_of(node)} reads it"
    summed = unify(query.dims[-1], key.dims[-1], reason)
    logits = _contract(found, node, query, key, summed, key.dims[-2], query.dims[-2])
    unify(key.dims[-2], value.dims[-2], reason)
    batch = _broadcast(logits.dims[:-2], value.dims[:-2], reason)
    for mask in found.tensors(arguments.get("attn_mask")):
        _broadcast((*batch, *logits.dims[-2:]), mask.dims, reason)
    if arguments.get("dropout_p", 0.0) != 0.0:
        found.dropouts.append((node, logits.dims))
    for origin in value.origins:
        found.readers[origin].append(node)
    return Layout((*batch, query.dims[-2], value.dims[-1]), value.origins)


def _softmax(found: Layouts, node: fx.Node) -> Any:
    along = argument(node, 1, "dim")
    if not isinstance(along, int):
        return unknown(found, node)
    read = first_layout(found, node)
    freeze((read.dims[along],), f"{name_of(node)} normalises over it")
    return replace(read, odd=False, contracted=())


def _reduction(found: Layouts, node: fx.Node) -> Any:
    over, keep = argument(node, 1, "dim"), argument(node, 2, "keepdim", False)
    over = (over,) if isinstance(over, int) else over
    if not isinstance(over, tuple | list) or not isinstance(keep, bool) or shape_of(node) is None:
        return unknown(found, node)
    read = first_layout(found, node)
    places = {int(place) % len(read.dims) for place in over}
    freeze((read.dims[place] for place in places), f"{name_of(node)} reduces over it")
    dims = tuple(() if place in places else dim for place, dim in enumerate(read.dims) if keep or place not in places)
    return replace(read, dims=dims, odd=False, contracted=())


_RULES: dict[str, Callable[[Layouts, fx.Node], Any]] = {
    **dict.fromkeys(_CONVERSIONS, lambda found, node: _elementwise(found, node, odd=True)),
    **dict.fromkeys(_DROPOUTS, _dropout),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("mul", "imul", "div", "truediv", "itruediv", "multiply"), _product),
    **dict.fromkeys(("add", "iadd", "sub", "isub"), _sum),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
    **SHAPE_RULES,
}
