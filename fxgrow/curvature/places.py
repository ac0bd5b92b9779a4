"""Where the images of a batch lie in a value inside the model: in front, behind the positions, or folded into them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import Recorder, arguments
from fxgrow.execution.preservation import preserved
from fxgrow.execution.structures import chosen


@dataclass(frozen=True)
class Place:
    """The images are the outer or the inner factor of one dimension of a value."""

    dim: int
    outer: bool = True  #: outer: one image's rows lie together, as windows do; inner: they alternate, time before batch


def find_places(graph_module: fx.GraphModule, nodes: Iterable[fx.Node], batch: Batch) -> dict[fx.Node, Place | None]:
    """Find where the images lie, by putting another image in the place of one and looking what changes.

    Two images of the batch serve, in eval mode, where nothing mixes images that does not have to.

    Args:
        graph_module: The model. Its state, its mode and the random state stay as they are.
        nodes: Nodes whose values are tensors.
        batch: Some real data.

    Returns:
        The place in each node's value; None where images are mixed. Where the data tell nothing (the two images are
        alike, or the model does not take two) the images are taken to be in front.
    """
    nodes = frozenset(nodes)
    places: dict[fx.Node, Place | None] = dict.fromkeys(nodes, Place(0))
    if batch.images < 2:
        return places
    try:
        two, twice_the_first = (_values(graph_module, nodes, batch, images) for images in ([0, 1], [0, 0]))
    except Exception:  # the model's own code runs here, and may insist on its own batch size
        return places
    changes = {node: _differs(value, twice_the_first[node]) for node, value in two.items()}
    return places | {node: _place(changed) for node, changed in changes.items() if changed.any()}


def images_in_front(value: Tensor, place: Place | None, images: int, spatial: int) -> tuple[Tensor, int]:
    """Bring the images of a site's input or output to the leading dimension, one image's rows together.

    Args:
        value: The input or output of a linear map.
        place: Where the images lie; None if they are mixed.
        images: How many there are.
        spatial: How many spatial dimensions the map has.

    Returns:
        The value, and into how many parts its leading dimension divides: the images, or 1 where it does not show them.
    """
    if value.ndim < 2 + spatial:
        value = value.unsqueeze(0)
    elif place is not None and place.dim < value.ndim - 1 - spatial and value.shape[place.dim] % images == 0:
        if place == Place(0):
            return value, images
        folded = torch.unflatten(value, place.dim, (images, -1) if place.outer else (-1, images))
        return folded.movedim(place.dim if place.outer else place.dim + 1, 0).flatten(0, 1), images
    return value, 1


def _values(
    graph_module: fx.GraphModule, nodes: frozenset[fx.Node], batch: Batch, images: list[int]
) -> dict[fx.Node, Tensor]:
    few = replace(batch, inputs=chosen(batch.inputs, images, of=batch.images), images=len(images))
    with preserved(graph_module, seed=0), torch.no_grad():
        graph_module.eval()
        recorder = Recorder(graph_module, nodes, frozenset(), nodes)
        recorder.run(*arguments(graph_module, few))
    return {node: value for node, value in recorder.values.items() if isinstance(value, Tensor)}


def _differs(value: Tensor, other: Tensor) -> Tensor:
    """Say where two values differ by more than rounding: kernels on a GPU do not always add in the same order."""
    return ~torch.isclose(value, other, rtol=1e-3, atol=1e-5 * float(value.abs().max()), equal_nan=True)


def _place(changed: Tensor) -> Place | None:
    """Find the dimension in which all that changed belongs to the second of two images."""
    sizes = enumerate(changed.shape)
    # A dimension of two comes first: texts that begin alike change in the second half of their positions only.
    for dim, size in sorted(sizes, key=lambda item: item[1] != 2):
        rows = changed.movedim(dim, 0).reshape(size, -1).any(1)
        if size % 2 == 0 and not rows[: size // 2].any():
            return Place(dim)
        if size % 2 == 0 and not rows[::2].any():
            return Place(dim, outer=False)
    return None
