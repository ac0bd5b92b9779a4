"""Where the samples of a batch lie in a value inside the model: in front, behind the positions, or folded into them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch, tensors_in
from fxgrow.curvature.capture import Recorder, run_recorded, whole_model
from fxgrow.execution.place import Place
from fxgrow.execution.preservation import preserved
from fxgrow.execution.structures import chosen


@dataclass(frozen=True)
class SampleDimension:
    """The samples are the outer or the inner factor of one dimension of a value."""

    dim: int
    #: outer: one sample's rows lie together, as windows do; inner: they alternate, time before batch
    outer: bool = True

    def sample_of(self, size: int, samples: int) -> Tensor | None:
        """Return which sample each of `size` entries of the dimension belongs to; None where they do not divide."""
        if size % samples:
            return None
        numbers, repeats = torch.arange(samples), size // samples
        return numbers.repeat_interleave(repeats) if self.outer else numbers.repeat(repeats)


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
        The dimension in each node's value; None where samples are mixed, or the inputs do not show them. Where the data
        tell nothing (the two samples are alike, or the model does not take two) and samples lie in front in the inputs,
        they are taken to lie in front everywhere.
    """
    nodes = frozenset(nodes)
    unknown = SampleDimension(0) if batch.dim == 0 else None
    return dict.fromkeys(nodes, unknown) | _changes(graph_module, nodes, batch, [0, 0])


def given_to_part(batch: Batch, place: Place) -> Batch:
    """Return what the part at `place` is given when the model runs on `batch`, and where the samples lie in it."""
    inputs = place.inputs(batch.inputs)
    first = next((tensor for tensor in tensors_in(inputs) if tensor.ndim), None)
    sizes = () if first is None else first.shape[:2]
    return replace(batch, inputs=inputs, dim=next((d for d, size in enumerate(sizes) if size == batch.samples), None))


def samples_lie_along(graph_module: fx.GraphModule, batch: Batch, place: Place | None = None) -> bool:
    """Whether the model keeps apart what lies along the dimension `batch.dim` of its inputs, as samples are.

    Neither of two entries may have a part in what the output has of the other. Asked both ways, since a text's later
    words see its earlier ones.
    """
    outputs = frozenset(graph_module.graph.output_node().all_input_nodes)
    for repeated in ([0, 0], [1, 1]):
        dimensions = _changes(graph_module, outputs, batch, repeated, place)
        if not dimensions or None in dimensions.values():
            return False
    return True


def _changes(
    graph_module: fx.GraphModule,
    nodes: frozenset[fx.Node],
    batch: Batch,
    repeated: list[int],
    place: Place | None = None,
) -> dict[fx.Node, SampleDimension | None]:
    """Return where the values of two samples change when one is `repeated` in the place of both; nothing if nowhere."""
    if batch.samples < 2 or batch.dim is None:
        return {}
    try:
        two, alike = (_values(graph_module, nodes, batch, samples, place) for samples in ([0, 1], repeated))
    except Exception:  # the model's own code runs here, and may insist on its own batch size
        return {}
    changed = {node: _differs(value, alike[node]) for node, value in two.items() if value.ndim}
    return {node: _dimension(where, 1 - repeated[0]) for node, where in changed.items() if where.any()}


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


def run_in_eval(
    graph_module: fx.GraphModule,
    batch: Batch,
    nodes: frozenset[fx.Node] = frozenset(),
    place: Place | None = None,
) -> Recorder:
    """Run a batch in eval mode without gradients, leaving no trace; the values at `nodes` are kept."""
    model = whole_model(graph_module, place)
    with preserved(model, seed=0), torch.no_grad():
        model.eval()
        recorder = Recorder(graph_module, nodes, frozenset(), nodes)
        run_recorded(recorder, batch, place)
    return recorder


def _values(
    graph_module: fx.GraphModule,
    nodes: frozenset[fx.Node],
    batch: Batch,
    samples: list[int],
    place: Place | None,
) -> dict[fx.Node, Tensor]:
    assert batch.dim is not None  # they can be chosen then
    few = replace(batch, inputs=chosen(batch.inputs, samples, of=batch.samples, dim=batch.dim), samples=len(samples))
    values = run_in_eval(graph_module, few, nodes, place).values
    return {node: value for node, value in values.items() if isinstance(value, Tensor)}


def _differs(value: Tensor, other: Tensor) -> Tensor:
    """Say where two values differ by more than rounding: kernels on a GPU do not always add in the same order."""
    finite = value.abs().nan_to_num(posinf=0)  # masks hold infinities, and so does a model that diverged
    return ~torch.isclose(value, other, rtol=1e-3, atol=1e-5 * float(finite.max()), equal_nan=True)


def _dimension(changed: Tensor, which: int) -> SampleDimension | None:
    """Find the dimension in which all that changed belongs to the first (0) or to the second (1) of two samples."""
    sizes = enumerate(changed.shape)
    # A dimension of two comes first: texts that begin alike change in the second half of their positions only.
    for dim, size in sorted(sizes, key=lambda item: item[1] != 2):
        rows = changed.movedim(dim, 0).reshape(size, -1).any(1)
        if size % 2 == 0 and not rows.view(2, -1)[1 - which].any():
            return SampleDimension(dim)
        if size % 2 == 0 and not rows.view(-1, 2)[:, 1 - which].any():
            return SampleDimension(dim, outer=False)
    return None
