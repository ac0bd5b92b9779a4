"""How reshapes, permutations and cuts carry axes from what they read to what they make."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.fx as fx

from fxgrow.graph.network import shape_of
from fxgrow.graph.unseen import SIZE_ATTRIBUTES
from fxgrow.record.location import name_of
from fxgrow.widths.axes import freeze, leaves, reshape, size_of
from fxgrow.widths.layouts import Layout, Layouts, Size, Sizes, argument, first_layout, unknown


def reshaped(found: Layouts, node: fx.Node) -> Any:
    """A row-major reshape, whatever spells it."""
    read, shape = first_layout(found, node), shape_of(node)
    if shape is None:
        return unknown(found, node)
    dims = reshape(read.dims, shape, f"{name_of(node)} cuts it")
    found.reshapes.append((node, dims))
    return read.rearranged(dims)


def _permute(found: Layouts, node: fx.Node) -> Any:
    order: Any = argument(node, 1, "dims")
    order = node.args[1:] if isinstance(order, int) else order
    read = first_layout(found, node)
    return read.rearranged(tuple(read.dims[place] for place in order))


def _transpose(found: Layouts, node: fx.Node) -> Any:
    dims, first, second = list(first_layout(found, node).dims), argument(node, 1, "dim0"), argument(node, 2, "dim1")
    if not isinstance(first, int) or not isinstance(second, int):
        return unknown(found, node)
    dims[first], dims[second] = dims[second], dims[first]
    return first_layout(found, node).rearranged(tuple(dims))


def _attribute(found: Layouts, node: fx.Node) -> Any:
    name, read = node.args[1], first_layout(found, node)
    if name == "shape":
        return Sizes(read.dims)
    if name in ("T", "mT") and len(read.dims) >= 2:
        return read.rearranged((*read.dims[:-2], read.dims[-1], read.dims[-2]))
    return None if name in SIZE_ATTRIBUTES else unknown(found, node)


def _size(found: Layouts, node: fx.Node) -> Any:
    read = first_layout(found, node)
    return Size(read.dims[node.args[1]]) if len(node.args) > 1 else Sizes(read.dims)  # type: ignore[index]


def _parts(found: Layouts, node: fx.Node, read: Layout, place: int, count: int) -> Any:
    """Cut a dimension into equal parts: its outer axis is taken apart, and its position in it remembered."""
    dim, place = read.dims[place], place % len(read.dims)
    if count == 1:
        return (read,)
    if size_of(dim) % count:
        return unknown(found, node)
    outer, inner = reshape((dim,), (count, size_of(dim) // count), f"{name_of(node)} cuts it")
    freeze((outer,), f"{name_of(node)} cuts it into parts")
    dims = (*read.dims[:place], inner, *read.dims[place + 1 :])
    return tuple(read.at(dims, leaves(outer), index) for index in range(count))


def _chunk(found: Layouts, node: fx.Node) -> Any:
    count, place = argument(node, 1, "chunks"), argument(node, 2, "dim", 0)
    return _parts(found, node, first_layout(found, node), int(place), int(count))


def _split(found: Layouts, node: fx.Node) -> Any:
    read = first_layout(found, node)
    sizes = argument(node, 1, "split_size", node.kwargs.get("split_size_or_sections"))
    place = int(argument(node, 2, "dim", 0))
    total = size_of(read.dims[place])
    if isinstance(sizes, list | tuple) and len(set(sizes)) == 1:
        sizes = sizes[0]
    if not isinstance(sizes, int) or total % sizes:
        return unknown(found, node)
    made = _parts(found, node, read, place, total // sizes)
    found.reshapes.append((node, (made[0].dims[place],)))
    return made


def _unbind(found: Layouts, node: fx.Node) -> Any:
    place = int(argument(node, 1, "dim", 0))
    return _taken_apart(found, node, first_layout(found, node), place)


def _taken_apart(found: Layouts, node: fx.Node, read: Layout, place: int) -> tuple[Layout, ...]:
    place, axis = place % len(read.dims), leaves(read.dims[place])
    freeze((axis,), f"{name_of(node)} takes it apart")
    dims = (*read.dims[:place], *read.dims[place + 1 :])
    return tuple(read.at(dims, axis, index) for index in range(max(1, size_of(axis))))


def _getitem(found: Layouts, node: fx.Node) -> Any:
    known, index = found.values[node.args[0]], node.args[1]  # type: ignore[index]
    if isinstance(known, tuple):
        return known[index] if isinstance(index, int) else unknown(found, node)
    items = index if isinstance(index, tuple) else (index,)
    if not all(item is None or isinstance(item, int) or item in (slice(None), Ellipsis) for item in items):
        return unknown(found, node)
    made, place = known, 0
    for item in _without_ellipsis(items, len(known.dims)):
        if isinstance(item, int):
            made = _taken_apart(found, node, made, place)[item]
            continue
        if item is None:
            made = made.rearranged((*made.dims[:place], (), *made.dims[place:]))
        place += 1
    return made


def _without_ellipsis(items: Sequence[Any], count: int) -> list[Any]:
    used = sum(item is not None and item is not Ellipsis for item in items)
    filled: list[Any] = []
    for item in items:
        filled.extend([slice(None)] * (count - used) if item is Ellipsis else [item])
    return filled


def _unsqueeze(found: Layouts, node: fx.Node) -> Any:
    read = first_layout(found, node)
    place = int(argument(node, 1, "dim", 0))
    place %= len(read.dims) + 1
    return read.rearranged((*read.dims[:place], (), *read.dims[place:]))


def _squeeze(found: Layouts, node: fx.Node) -> Any:
    read, shape = first_layout(found, node), shape_of(node)
    if shape is None:
        return unknown(found, node)
    return read.rearranged(reshape(read.dims, shape, f"{name_of(node)} cuts it"))


SHAPE_RULES: dict[str, Callable[[Layouts, fx.Node], Any]] = {
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten"), reshaped),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    "permute": _permute,
    "getattr": _attribute,
    "size": _size,
    "chunk": _chunk,
    "split": _split,
    "unbind": _unbind,
    "getitem": _getitem,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
}
