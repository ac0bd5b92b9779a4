"""Where the samples of a batch lie in a value inside the model: in front, behind the positions, or folded into them."""

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
class SampleDimension:
    """The samples are the outer or the inner factor of one dimension of a value."""

    dim: int
    outer: bool = (
        True  #: outer: one sample's rows lie together, as windows do; inner: they alternate, time before batch
    )


def find_sample_dimensions(
    graph_module: fx.GraphModule, nodes: Iterable[fx.Node], batch: Batch
) -> dict[fx.Node, SampleDimension | None]:
    """Find where the samples lie, by putting another sample in the place of one and looking what changes.

    Two samples of the batch serve, in eval mode, where nothing mixes samples that does not have to.

    Args:
        graph_module: The model. Its state, its mode and the random state stay as they are.
        nodes: Nodes whose values are tensors.
        batch: Some real data.

    Returns:
        The place in each node's value; None where samples are mixed. Where the data tell nothing (the two samples are
        alike, or the model does not take two) the samples are taken to be in front.
    """
    nodes = frozenset(nodes)
    dimensions: dict[fx.Node, SampleDimension | None] = dict.fromkeys(nodes, SampleDimension(0))
    if batch.samples < 2:
        return dimensions
    try:
        two, twice_the_first = (_values(graph_module, nodes, batch, samples) for samples in ([0, 1], [0, 0]))
    except Exception:  # the model's own code runs here, and may insist on its own batch size
        return dimensions
    changes = {node: _differs(value, twice_the_first[node]) for node, value in two.items()}
    return dimensions | {node: _place(changed) for node, changed in changes.items() if changed.any()}


def samples_in_front(
    value: Tensor, dimension: SampleDimension | None, samples: int, spatial: int
) -> tuple[Tensor, int]:
    """Bring the samples of a site's input or output to the leading dimension, one sample's rows together.

    Args:
        value: The input or output of a linear map.
        dimension: Where the samples lie; None if they are mixed.
        samples: How many there are.
        spatial: How many spatial dimensions the map has.

    Returns:
        The value, and into how many parts its leading dimension divides: the samples, or 1 where it does not show them.
    """
    if value.ndim < 2 + spatial:
        value = value.unsqueeze(0)
    elif (
        dimension is not None and dimension.dim < value.ndim - 1 - spatial and value.shape[dimension.dim] % samples == 0
    ):
        if dimension == SampleDimension(0):
            return value, samples
        folded = torch.unflatten(value, dimension.dim, (samples, -1) if dimension.outer else (-1, samples))
        return folded.movedim(dimension.dim if dimension.outer else dimension.dim + 1, 0).flatten(0, 1), samples
    return value, 1


def _values(
    graph_module: fx.GraphModule, nodes: frozenset[fx.Node], batch: Batch, samples: list[int]
) -> dict[fx.Node, Tensor]:
    few = replace(batch, inputs=chosen(batch.inputs, samples, of=batch.samples), samples=len(samples))
    with preserved(graph_module, seed=0), torch.no_grad():
        graph_module.eval()
        recorder = Recorder(graph_module, nodes, frozenset(), nodes)
        recorder.run(*arguments(graph_module, few))
    return {node: value for node, value in recorder.values.items() if isinstance(value, Tensor)}


def _differs(value: Tensor, other: Tensor) -> Tensor:
    """Say where two values differ by more than rounding: kernels on a GPU do not always add in the same order."""
    return ~torch.isclose(value, other, rtol=1e-3, atol=1e-5 * float(value.abs().max()), equal_nan=True)


def _place(changed: Tensor) -> SampleDimension | None:
    """Find the dimension in which all that changed belongs to the second of two samples."""
    sizes = enumerate(changed.shape)
    # A dimension of two comes first: texts that begin alike change in the second half of their positions only.
    for dim, size in sorted(sizes, key=lambda item: item[1] != 2):
        rows = changed.movedim(dim, 0).reshape(size, -1).any(1)
        if size % 2 == 0 and not rows[: size // 2].any():
            return SampleDimension(dim)
        if size % 2 == 0 and not rows[::2].any():
            return SampleDimension(dim, outer=False)
    return None
