"""Resizing hidden axes: new parameters that hold the old ones, and the sizes that the graph spells."""

import hashlib
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import PassError
from fxgrow.graph.sites import Site
from fxgrow.primitives.modules import clone_module
from fxgrow.record.lineage import Lineage
from fxgrow.record.location import name_of
from fxgrow.widths.axes import Axis, Dim, leaves
from fxgrow.widths.hidden_units import DimensionResize, Units, step_along
from fxgrow.widths.layouts import Layouts, SiteRows

#: what BatchNorm holds for a unit that has seen nothing
_NEUTRAL = {"weight": 1.0, "running_var": 1.0}


@dataclass(frozen=True)
class Resizing:
    """What has to be resized, tensor by tensor."""

    found: Layouts
    axes: Mapping[Axis, Units]
    steps: dict[str, list[DimensionResize]] = field(default_factory=lambda: defaultdict(list))

    def size_of(self, dim: Dim) -> int:
        """Return the new size of a dimension."""
        return math.prod(self.axes[axis].count if axis in self.axes else axis.size for axis in leaves(dim))

    def touches(self, dims: Iterable[Dim]) -> bool:
        """Say whether an axis of these dimensions is resized."""
        return any(axis in self.axes for dim in dims for axis in leaves(dim))

    def lineages(self) -> dict[str, Lineage]:
        """Return where the moments of the resized parameters come from."""

        def lineage(name: str, steps: Sequence[DimensionResize]) -> Lineage:
            def moments(sources: Sequence[Tensor], order: int) -> Tensor:
                (value,) = sources
                for step in steps:
                    value = step.moments(value, order)
                return value

            return Lineage((name,), moments)

        return {name: lineage(name, steps) for name, steps in self.steps.items()}


def plan_resizing(found: Layouts, axes: Mapping[Axis, Units], flipped: Iterable[SiteRows] = ()) -> Resizing:
    """Work out which tensors are resized, and how.

    Args:
        found: The layouts of the graph.
        axes: The axes to resize, none of them frozen.
        flipped: Origins whose rows go out rather than come in: keys, of which the product with the queries must stay.

    Raises:
        PassError: If a tensor has two of the axes in one dimension.
    """
    resizing = Resizing(found, axes)
    for path, site in found.sites.items():
        row_dim, column_dim = (1, 0) if site.map.transposed else (0, 1)
        rows = _step(resizing, row_dim, found.rows[path], path, flipped=[o for o in flipped if o.site == path])
        if rows is not None:
            resizing.steps[site.weight].append(rows)
            if site.bias is not None:
                resizing.steps[site.bias].append(_step_of_bias(rows))
        columns = _step(resizing, column_dim, found.columns[path], path, outgoing=True)
        if columns is not None:
            resizing.steps[site.weight].append(columns)
    for path, dim in found.channelwise.items():
        step = _step(resizing, 0, dim, path)
        if step is not None:
            for name in ("weight", "bias", "running_mean", "running_var"):
                fill = _NEUTRAL.get(name, 0.0)
                resizing.steps[f"{path}.{name}"].append(
                    DimensionResize(0, step.index, step.values, step.gradients, fill)
                )
    return resizing


def carry_out(graph_module: fx.GraphModule, resizing: Resizing, *, seed: int, keep_scale: bool) -> None:
    """Replace the tensors that are resized, and rewrite the sizes that the graph spells.

    Args:
        graph_module: Changed in place; its modules are replaced, not changed.
        resizing: What `plan_resizing` returned for this very graph.
        seed: Seed of new weights.
        keep_scale: Whether attention keeps the scale of the old head size, as it must for the function to stay.

    Raises:
        PassError: If a size is spelled in a way that cannot be rewritten.
    """
    respell(graph_module, resizing, keep_scale=keep_scale)
    _replace_tensors(graph_module, resizing, seed)


def respell(graph_module: fx.GraphModule, resizing: Resizing, *, keep_scale: bool) -> None:
    """Rewrite the sizes that the graph spells, and forget the shapes on its nodes.

    Args:
        graph_module: Changed in place.
        resizing: What `plan_resizing` returned for this very graph.
        keep_scale: As for `carry_out`.

    Raises:
        PassError: If a size is spelled in a way that cannot be rewritten.
    """
    for node, dims in resizing.found.reshapes:
        if resizing.touches(dims):
            _respell(resizing, node, dims)
    for contraction in resizing.found.contractions:
        if resizing.touches((contraction.dim,)) and contraction.node.target is F.scaled_dot_product_attention:
            old = math.prod(axis.size for axis in leaves(contraction.dim))
            _rescale_attention(contraction.node, old, resizing.size_of(contraction.dim), keep_scale)
    if not keep_scale:
        for node, dim in resizing.found.scalings:
            if resizing.touches((dim,)):
                _rescale(node, math.prod(axis.size for axis in leaves(dim)), resizing.size_of(dim))
    for node in graph_module.graph.nodes:
        if node.op != "placeholder":
            for key in ("tensor_meta", "type"):
                node.meta.pop(key, None)


def _step(
    resizing: Resizing, dim: int, layout: Dim, path: str, *, outgoing: bool = False, flipped: Sequence[SiteRows] = ()
) -> DimensionResize | None:
    """Return how a dimension of a tensor is resized; None where it is not."""
    axes = leaves(layout)
    chosen = [place for place, axis in enumerate(axes) if axis in resizing.axes]
    if not chosen:
        return None
    if len(chosen) > 1:
        raise PassError("two axes of one dimension would change at once", where=path, fix="resize one after the other")
    units = resizing.axes[axes[chosen[0]]]
    new_sizes = [units.count if place == chosen[0] else axis.size for place, axis in enumerate(axes)]
    goes_out = torch.full(new_sizes, int(outgoing))
    for origin in flipped:
        place = [slice(None)] * len(axes)
        for axis, position in origin.fixed:
            if axis.root in axes:
                place[axes.index(axis.root)] = slice(position, position + 1)
        goes_out[tuple(place)] = 1
    return step_along(units, [axis.size for axis in axes], chosen[0], goes_out, dim)


def _step_of_bias(step: DimensionResize) -> DimensionResize:
    return DimensionResize(0, step.index, step.values, step.gradients)


def _respell(resizing: Resizing, node: fx.Node, dims: tuple[Dim, ...]) -> None:
    """Write the new sizes into a reshape."""
    name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")).rpartition(".")[2]
    if name == "flatten" or node.op == "call_module":
        return
    arguments = list(node.args)
    if name == "split":
        arguments[1] = resizing.size_of(dims[0])
        node.args = tuple(arguments)
        return
    first = 2 if name == "unflatten" else 1
    total = arguments[first] if len(arguments) > first else None
    if _is_size_with_ending(total):
        node.update_arg(first, _with_ending(resizing, total, dims))
        return
    nested = len(arguments) > first and isinstance(arguments[first], tuple | list)
    spelled = list(arguments[first]) if nested else arguments[first:]  # type: ignore[arg-type]
    start = int(arguments[1]) % (len(dims) - len(spelled) + 1) if name == "unflatten" else 0  # type: ignore[arg-type]
    if node.kwargs or not spelled:
        raise PassError("its sizes are given by keyword", where=name_of(node), fix="give them by place")
    for place, size in enumerate(spelled):
        dim = dims[start + place]
        if not resizing.touches((dim,)) or size == -1:
            continue
        if not isinstance(size, int) and not all(axis.static for axis in leaves(dim)):
            raise PassError("it computes the new size with the batch", where=name_of(node), fix="write -1 there")
        spelled[place] = resizing.size_of(dim)
    node.args = (*arguments[:first], tuple(spelled)) if nested else (*arguments[:first], *spelled)


def _is_size_with_ending(argument: object) -> TypeGuard[fx.Node]:
    """Say whether an argument is ``x.shape[:-1] + (6,)``, as transformers' Conv1D has it."""
    return (
        isinstance(argument, fx.Node)
        and argument.target is operator.add
        and isinstance(argument.args[1], tuple)
        and all(isinstance(size, int) for size in argument.args[1])
    )


def _with_ending(resizing: Resizing, total: fx.Node, dims: tuple[Dim, ...]) -> fx.Node:
    """Return the same size with another ending, for this one reader of it."""
    ending: tuple[int, ...] = total.args[1]  # type: ignore[assignment]
    last = dims[len(dims) - len(ending) :]
    new = (resizing.size_of(d) if resizing.touches((d,)) and n != -1 else n for n, d in zip(ending, last, strict=True))
    with total.graph.inserting_after(total):
        return total.graph.call_function(operator.add, (total.args[0], tuple(new)))


def _rescale_attention(node: fx.Node, old: int, new: int, keep: bool) -> None:
    scale = node.kwargs.get("scale", node.args[6] if len(node.args) > 6 else None)
    if scale is None and keep:
        node.kwargs = {**node.kwargs, "scale": old**-0.5}
    elif isinstance(scale, float) and not keep and math.isclose(scale, old**-0.5, rel_tol=1e-6):
        node.kwargs = {**node.kwargs, "scale": new**-0.5}


def _rescale(node: fx.Node, old: int, new: int) -> None:
    """Rewrite a number that is a power of the old head size, as queries or logits are scaled by."""
    for place, value in enumerate(node.args):
        for power in (-0.5, 0.5, -0.25, 0.25):
            if isinstance(value, int | float) and math.isclose(value, old**power, rel_tol=1e-6):
                node.update_arg(place, new**power)
                return


def _replace_tensors(graph_module: fx.GraphModule, resizing: Resizing, seed: int) -> None:
    called = {str(node.target) for node in graph_module.graph.find_nodes(op="call_module")}
    clones: dict[str, nn.Module] = {}
    for name, steps in resizing.steps.items():
        path, _, local = name.rpartition(".")
        owner = clones.get(path) or graph_module.get_submodule(path)
        old = owner._parameters.get(local) if owner._parameters.get(local) is not None else owner._buffers.get(local)
        if old is None:
            continue  # a norm without weights or statistics
        if path in called and path not in clones:
            owner = clones[path] = clone_module(owner)
            graph_module.get_submodule(path.rpartition(".")[0])._modules[path.rpartition(".")[2]] = owner
        generator = torch.Generator().manual_seed(_salt(seed, name))
        value = old.detach()
        for step in steps:
            value = step.apply(value, generator)
        if local in owner._parameters:
            owner._parameters[local] = nn.Parameter(value, requires_grad=old.requires_grad)
        else:
            owner._buffers[local] = value
    for path, clone in clones.items():
        _describe(clone, resizing.found.sites.get(path))


def _describe(module: nn.Module, site: Site | None) -> None:
    """Let a resized module say the sizes that it has."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        sizes = module.weight.shape[:2]
        module.out_channels, module.in_channels = reversed(sizes) if module.transposed else sizes
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        sized = next(t for t in [*module.parameters(), *module.buffers()] if t.dim())
        module.num_features = len(sized)


def _salt(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
