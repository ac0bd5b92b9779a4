"""Layouts: which hidden axis lies in which dimension of every value, and which parameters carry it.

One walk over the graph gives each value's dimensions as axes (`fxgrow.widths.axes`). What hidden units go through is
followed as far as it treats all units alike: elementwise operations, products of two such values, BatchNorm, reshapes,
attention. Anything else freezes the axes that it reads.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.fx as fx

from fxgrow.execution.structures import mapped
from fxgrow.graph.sites import Site, computed_from, weight_of
from fxgrow.record.location import name_of
from fxgrow.widths.axes import Axis, Dim, dim_of, freeze


@dataclass(frozen=True)
class SiteRows:
    """Rows of a site that a value is computed from: all of them, or those at one position of an axis."""

    site: str
    fixed: tuple[tuple[Axis, int], ...] = ()


@dataclass(frozen=True)
class Layout:
    """The dimensions of a tensor as axes, and where its hidden units come from."""

    dims: tuple[Dim, ...]
    origins: frozenset[SiteRows] = frozenset()
    #: whether changing the sign of the origins' rows, weight and bias, changes the sign of the value
    odd: bool = False
    #: on attention logits: the axes that were summed over
    contracted: Dim = ()

    def rearranged(self, dims: tuple[Dim, ...]) -> "Layout":
        """Return the layout of the same numbers in other dimensions."""
        return replace(self, dims=dims, contracted=())

    def at(self, dims: tuple[Dim, ...], axis: Dim, index: int) -> "Layout":
        """Return the layout of what lies at one position of an axis."""
        if len(axis) != 1:
            return replace(self, dims=dims)
        fixed = frozenset(SiteRows(origin.site, (*origin.fixed, (axis[0], index))) for origin in self.origins)
        return replace(self, dims=dims, origins=fixed)


@dataclass(frozen=True)
class Sizes:
    """Sizes of dimensions, as ``x.shape`` gives them."""

    dims: tuple[Dim, ...]


@dataclass(frozen=True)
class Size:
    """The size of one dimension."""

    dim: Dim


@dataclass(frozen=True)
class Contraction:
    """A product of two computed values that sums over an axis, as queries times keys."""

    node: fx.Node
    dim: Dim
    left: Layout
    right: Layout


@dataclass(frozen=True)
class Layouts:
    """What is known of the axes of a graph."""

    sites: Mapping[str, Site]
    bound: Mapping[str, str] = field(default_factory=dict)  #: tensors that must keep their size, by name, and why
    rows: dict[str, Dim] = field(default_factory=dict)  #: the output rows of each site
    columns: dict[str, Dim] = field(default_factory=dict)  #: the input channels of each site
    channelwise: dict[str, Dim] = field(default_factory=dict)  #: the channels of each BatchNorm
    contractions: list[Contraction] = field(default_factory=list)
    #: nodes that spell sizes, with the dimensions that they make
    reshapes: list[tuple[fx.Node, tuple[Dim, ...]]] = field(default_factory=list)
    #: multiplications by a number, with the axes that the number may be the scale of
    scalings: list[tuple[fx.Node, Dim]] = field(default_factory=list)
    dropouts: list[tuple[fx.Node, tuple[Dim, ...]]] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    #: how often the rows at an origin are read by something that sums over them
    readers: dict[SiteRows, list[fx.Node]] = field(default_factory=lambda: defaultdict(list))

    def tensors(self, value: Any) -> list[Layout]:
        """Return the layouts of the tensors in a node's argument."""
        found: list[Layout] = []

        def visit(node: fx.Node) -> fx.Node:
            known = self.values.get(node)
            parts = known if isinstance(known, tuple) else (known,)
            found.extend(part for part in parts if isinstance(part, Layout))
            return node

        fx.map_arg(value, visit)
        return found

    def freeze_sizes(self, value: Any, reason: str) -> None:
        """Freeze the axes whose sizes a node computes with."""

        def visit(node: fx.Node) -> fx.Node:
            known = self.values.get(node)
            if isinstance(known, Size):
                freeze((known.dim,), reason)
            elif isinstance(known, Sizes):
                freeze(known.dims, reason)
            return node

        fx.map_arg(value, visit)


def unknown(found: Layouts, node: fx.Node) -> Any:
    """Freeze all that a node reads, since nothing is known of it, and return what it makes."""
    sources = [str(source.target) for source in computed_from(weight_of(node)) if source is not weight_of(node)]
    reason = f"{name_of(node)} reads it" + (f", with a weight computed from {sources[0]}" if sources else "")
    freeze((dim for layout in found.tensors((node.args, node.kwargs)) for dim in layout.dims), reason)
    found.freeze_sizes((node.args, node.kwargs), reason)
    return fresh(node, reason)


def fresh(node: fx.Node, reason: str) -> Any:
    """Return layouts of frozen axes for what a node makes."""

    def build(meta: Any) -> Any:
        shape = getattr(meta, "shape", None)
        return None if shape is None else Layout(tuple(dim_of(int(size), frozen=reason) for size in shape))

    made = mapped(node.meta.get("tensor_meta"), build)
    return tuple(made) if isinstance(made, list) else made


def first_layout(found: Layouts, node: fx.Node) -> Layout:
    """Return the layout of the first tensor that a node reads."""
    return found.tensors(node.all_input_nodes[0])[0]


def argument(node: fx.Node, place: int, keyword: str, default: Any = None) -> Any:
    """Return an argument of a node, given by place or by keyword."""
    return node.kwargs.get(keyword, node.args[place] if len(node.args) > place else default)
